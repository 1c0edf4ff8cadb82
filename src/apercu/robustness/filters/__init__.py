"""The former home of `apercu.filters`; its names can still be imported from here."""

from __future__ import annotations

from apercu.filters import *  # noqa: F403
from apercu.filters import __all__ as __all__
