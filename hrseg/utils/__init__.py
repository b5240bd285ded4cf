"""Utilities independent of networks, data sets and runs: files, images, checks, signals."""
