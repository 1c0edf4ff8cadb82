"""Guards: may this answer be believed on this image? Fitted to clean images, asked in one pass."""

from __future__ import annotations

from apercu.guard.fit import fit_guard
from apercu.guard.guard import Guard, GuardRecord
from apercu.guard.use import attach_guard, check_files, load_guard, open_guard
from apercu.verdicts import Trust

__all__ = [
    "Guard",
    "GuardRecord",
    "Trust",
    "attach_guard",
    "check_files",
    "fit_guard",
    "load_guard",
    "open_guard",
]
