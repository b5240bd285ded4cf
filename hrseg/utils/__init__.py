"""What knows nothing of networks, data sets or runs: files, images, checks, signals."""
