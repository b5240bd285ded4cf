"""The networks, one family a file. They need torch, and nothing of how they are trained, stored or named."""
