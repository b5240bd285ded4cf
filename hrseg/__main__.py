"""`python -m hrseg`: the command `hrseg` where it is not on the path."""

from __future__ import annotations

from hrseg.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
