"""Files of weights: reading and writing, the layouts of other code bases, published weights, conversion."""
