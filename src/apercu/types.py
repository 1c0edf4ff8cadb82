"""The nouns: tensors with named shapes.

Shapes are checked at run time in the tests only (jaxtyping's import hook in `tests/conftest.py`).
"""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Picture: TypeAlias = Float[Tensor, "channels height width"]
"""One image as it was stored, values in [0, 1]."""

Images: TypeAlias = Float[Tensor, "batch channels height width"]
"""Images at the classifier's input size, values in [0, 1]."""

Logits: TypeAlias = Float[Tensor, "batch classes"]
Targets: TypeAlias = Int[Tensor, " batch"]
"""Class indices, one per image."""

Maps: TypeAlias = Float[Tensor, "batch height width"]
"""Evidence per pixel; higher is more. A mask is a map in [0, 1] where 1 keeps."""

LogOdds: TypeAlias = Float[Tensor, "batch rows columns"]
"""Log-odds of keeping, log M / (1 − M), at the mask's own resolution, coarser than the image."""

Regions: TypeAlias = Bool[Tensor, "batch height width"]
"""Thresholded maps, or true masks."""

Boxes: TypeAlias = Float[Tensor, "batch 4"]
"""`xmin, ymin, xmax, ymax` in pixels; the far edges are exclusive; an empty box is all zeros."""

Scores: TypeAlias = Float[Tensor, " batch"]
"""One number per image, never reduced."""
