"""The data sets, one file each: a label table, and a data module that lists the samples of a split."""
