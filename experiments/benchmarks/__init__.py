"""How fast hrseg is, each time beside the obvious way of doing the same; one subject a file.

Every measurement first checks that the sides compared give the same result.
"""
