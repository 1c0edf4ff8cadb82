"""What the classifier thinks of the image seen through its map (Chattopadhay et al. 2018).

The map is stretched to [0, 1] and multiplied with the image. A constant map has nothing to show:
it becomes black.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from apercu.maps import min_max_scale
from apercu.metrics.flipping import target_probability
from apercu.removal import Black
from apercu.types import Images, Logits, Maps, Scores, Targets

Ask = Callable[[Images], Logits]


def average_drop(classifier: Ask, images: Images, targets: Targets, maps: Maps) -> Scores:
    """Share of the target's probability that is lost through the map, 0 to 1; lower is better."""
    whole, seen = _compute_probabilities(classifier, images, targets, min_max_scale(maps))
    return _divide_safely((whole - seen).clamp(min=0), whole)


def increase(classifier: Ask, images: Images, targets: Targets, maps: Maps) -> Scores:
    """1 where the target's probability is larger through the map, else 0; higher is better."""
    whole, seen = _compute_probabilities(classifier, images, targets, min_max_scale(maps))
    return (seen > whole).to(seen.dtype)


def drop_in_deletion(classifier: Ask, images: Images, targets: Targets, maps: Maps) -> Scores:
    """Share of the target's probability that is lost without what the map shows; higher is better.

    Below 0 where the probability grows (Jung & Oh 2021). For a constant map nothing is taken away
    and the score is 0.
    """
    whole, left = _compute_probabilities(classifier, images, targets, 1 - min_max_scale(maps))
    return _divide_safely(whole - left, whole)


def _compute_probabilities(
    classifier: Ask, images: Images, targets: Targets, masks: Maps
) -> tuple[Tensor, Tensor]:
    """Of the target: for the image, and for what the mask keeps of it."""
    with torch.no_grad():
        whole = target_probability(classifier, images, targets)
        return whole, target_probability(classifier, Black()(images, masks), targets)


def _divide_safely(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient; 0 where there was nothing to lose."""
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), 0)
