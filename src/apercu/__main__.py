"""`python -m apercu` is the command line."""

from __future__ import annotations

from apercu.cli import main

if __name__ == "__main__":
    main()
