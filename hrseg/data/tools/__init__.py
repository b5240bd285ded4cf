"""Commands on data sets: verify, guess classes, prepare labels, pack submissions."""
