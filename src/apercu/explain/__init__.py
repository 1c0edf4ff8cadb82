"""Explanations as files: overlays, masks, raw maps, crops, contact sheets."""

from __future__ import annotations

from apercu.explain.flow import Asked, Explaining
from apercu.explain.pick import Pick, pick

__all__ = ["Asked", "Explaining", "Pick", "pick"]
