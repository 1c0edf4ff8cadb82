"""`apercu VERB`: one file per verb; nothing heavy is imported before a verb needs it."""

from apercu.cli.root import main

__all__ = ["main"]
