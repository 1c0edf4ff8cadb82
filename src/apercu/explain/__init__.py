"""Explanations as files: overlays, masks, raw maps, crops, contact sheets."""

from __future__ import annotations

from apercu.explain.flow import ExplainRun
from apercu.explain.options import CounterpartAnswers, ExplainOptions, MaskAnswers
from apercu.explain.pick import ImageRef, select_images

__all__ = [
    "ExplainOptions",
    "CounterpartAnswers",
    "ExplainRun",
    "MaskAnswers",
    "ImageRef",
    "select_images",
]
