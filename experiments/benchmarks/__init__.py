"""Comparisons of hrseg with straightforward implementations, one file per subject.

Every comparison first checks that the alternatives give the same result.
"""
