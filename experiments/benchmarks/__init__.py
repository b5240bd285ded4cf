"""Comparisons of hrseg with the obvious way of computing the same, one subject a file.

Every comparison first checks that the alternatives give the same result.
"""
