"""Does the box around the evidence find the object (protocol of Cao et al. 2015)?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.types import Boxes, Scores

MIN_IOU = 0.5


def localisation_error(boxes: Boxes, truths: Float[Tensor, "batch truths 4"]) -> Scores:
    """0 where the box overlaps a true box with IoU > 0.5, else 1; lower is better.

    Images with fewer true boxes than others are filled up with empty boxes (all zeros), which
    nothing overlaps; an empty box is a miss.
    """
    overlap = box_iou(boxes[:, None].expand_as(truths), truths)
    return (overlap.amax(dim=1) <= MIN_IOU).float()


def box_iou(
    boxes: Float[Tensor, "*shape 4"], others: Float[Tensor, "*shape 4"]
) -> Float[Tensor, "*shape"]:
    """Intersection over union of boxes, pair by pair; 0 where both are empty.

    >>> box_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2]))
    tensor(0.3333)
    """
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    union = _compute_area(boxes) + _compute_area(others) - shared
    return torch.where(union > 0, shared / union.where(union > 0, 1), 0)


def _compute_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)
