"""Explanations of images: their numbers, their pictures, and the files that hold both."""

from __future__ import annotations

from apercu.explain.counterpart_explanation import CounterpartExplanation
from apercu.explain.explain_images import (
    ExplainRun,
    Explanations,
    ImageRef,
    explain_image,
    select_images,
)
from apercu.explain.explanation import Explanation, NamedClass, StoredImage
from apercu.explain.mask_explanation import MaskExplanation
from apercu.explain.options import ExplainOptions, TargetSelector

__all__ = [
    "CounterpartExplanation",
    "ExplainOptions",
    "ExplainRun",
    "Explanation",
    "Explanations",
    "ImageRef",
    "MaskExplanation",
    "NamedClass",
    "StoredImage",
    "TargetSelector",
    "explain_image",
    "select_images",
]
