"""Weights files: reading and writing, layouts of other code bases, published weights and their download."""
