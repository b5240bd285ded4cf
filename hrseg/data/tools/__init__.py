"""What the command does to data sets: verify, guess the classes, prepare labels, pack submissions."""
