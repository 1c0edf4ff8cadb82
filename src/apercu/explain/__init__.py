"""Explanations as files: overlays, masks, raw maps, crops, contact sheets."""

from __future__ import annotations

from apercu.explain.answering import Masked, Swapped
from apercu.explain.asked import Asked
from apercu.explain.flow import Explaining
from apercu.explain.pick import Pick, pick

__all__ = ["Asked", "Explaining", "Masked", "Pick", "Swapped", "pick"]
