"""The data sets, one a file: a label table, and a data module that lists the samples of a split."""
