"""Localisation error: does the box around the evidence match the object (Cao et al. 2015)?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.metrics.record import Metric, make_levelwise
from apercu.statistics import divide_or
from apercu.types import Boxes, Scores

MIN_IOU = 0.5
"""A box with a larger overlap than this is a hit."""


def localisation_error(boxes: Boxes, truths: Float[Tensor, "batch truths 4"]) -> Scores:
    """Return 0 where the box overlaps a true box with IoU > 0.5, else 1; lower is better.

    Images with fewer true boxes than others are filled up with empty boxes (all zeros), which no
    box overlaps. An empty predicted box is a miss.
    """
    overlap = box_iou(boxes[:, None].expand_as(truths), truths)
    return (overlap.amax(dim=1) <= MIN_IOU).float()


def box_iou(
    boxes: Float[Tensor, "*shape 4"], others: Float[Tensor, "*shape 4"]
) -> Float[Tensor, "*shape"]:
    """Return the intersection over union of boxes, pair by pair; 0 where both are empty.

    >>> box_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2]))
    tensor(0.3333)
    """
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    union = _compute_area(boxes) + _compute_area(others) - shared
    return divide_or(shared, union)


def _compute_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


LOCALISATION_ERROR = Metric(
    name="localisation_error",
    function=make_levelwise(localisation_error),
    takes=("boxes", "true_boxes"),
    better="lower",
    title="Localisation error",
    phrase="localisation error",
    meaning="images whose box misses the true one (overlap, IoU, of at most 0.5)",
    percent=True,
    decimals=1,
)
