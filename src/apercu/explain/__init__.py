"""Explanations as files: overlays, masks, raw maps, crops, contact sheets."""

from __future__ import annotations

from apercu.explain.explain_images import ExplainRun, ImageRef, select_images
from apercu.explain.options import CounterpartAnswers, ExplainOptions, MaskAnswers

__all__ = [
    "ExplainOptions",
    "CounterpartAnswers",
    "ExplainRun",
    "MaskAnswers",
    "ImageRef",
    "select_images",
]
