"""Types of tensors, with named axes.

Shapes are checked at run time in the tests only (jaxtyping's import hook in `tests/conftest.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Picture: TypeAlias = Float[Tensor, "channels height width"]
"""One image at its stored size, values in [0, 1]."""

Images: TypeAlias = Float[Tensor, "batch channels height width"]
"""Images at the classifier's input size, values in [0, 1]."""

Logits: TypeAlias = Float[Tensor, "batch classes"]
"""The classifier's outputs before softmax or sigmoid, one column per class."""

LogitsFn: TypeAlias = Callable[[Images], Logits]
"""A classifier, or anything else that computes logits from images."""

Targets: TypeAlias = Int[Tensor, " batch"]
"""Class indices to explain, one per image."""

Maps: TypeAlias = Float[Tensor, "batch height width"]
"""Evidence per pixel; higher is more. A mask is a map in [0, 1] where 1 keeps."""

LogOdds: TypeAlias = Float[Tensor, "batch rows columns"]
"""Log-odds of a mask, log M / (1 − M), at the mask's own resolution, coarser than the image."""

Regions: TypeAlias = Bool[Tensor, "batch height width"]
"""Thresholded maps or true masks: True inside."""

Boxes: TypeAlias = Float[Tensor, "batch 4"]
"""`xmin, ymin, xmax, ymax` in pixels; the upper edges are exclusive; an empty box is all zeros."""

Scores: TypeAlias = Float[Tensor, " batch"]
"""One number per image, not averaged over the batch."""
