"""Explanations as files: overlays, masks, raw maps, crops, contact sheets."""

from __future__ import annotations

from apercu.explain.answering import CounterpartAnswers, MaskAnswers
from apercu.explain.asked import Asked
from apercu.explain.flow import Explaining
from apercu.explain.pick import Pick, pick

__all__ = ["Asked", "CounterpartAnswers", "Explaining", "MaskAnswers", "Pick", "pick"]
