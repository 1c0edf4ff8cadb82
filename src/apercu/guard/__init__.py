"""Guards: may this answer be believed on this image? Fitted to honest images, asked in one pass."""

from __future__ import annotations

from apercu.guard.fit import GuardSettings, fit_guard
from apercu.guard.guard import Guard, GuardRecord, load_guard
from apercu.verdicts import Trust

__all__ = ["Guard", "GuardRecord", "GuardSettings", "Trust", "fit_guard", "load_guard"]
