"""The terms that every objective is made of, and what an objective is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Generator

from apercu.networks.decoder import Evidence
from apercu.types import Images, Logits, LogOdds, Maps, Scores, Targets

Terms: TypeAlias = dict[str, Scores]
"""Named parts of the loss, weighted, one number per image; the loss is the mean of their sum."""


@dataclass(frozen=True)
class MaskBatch:
    """One training batch: which evidence the masks should show.

    Attributes:
        images: what the classifier saw.
        targets: the class each mask was asked for.
        real: whether that class is there; false for a fake class.
        true: the class that is really there (equal to `targets` where `real`).
    """

    images: Images
    targets: Targets
    real: torch.Tensor
    predicted: Targets


class MaskObjective(BaseModel, ABC):
    """Scores masks by what a classifier makes of what they keep and remove."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def terms(
        self,
        classifier: Callable[[Images], Logits],
        batch: MaskBatch,
        evidence: Evidence,
        generator: Generator,
    ) -> Terms:
        """Weighted terms, one number per image each.

        Args:
            classifier: images in [0, 1] → logits, with gradients.
            question: the batch.
            evidence: what the network says, at the mask's own resolution.
            generator: source of every random draw.
        """


def roughness(masks: Maps) -> Scores:
    """Sum of the squared differences between neighbours, in rows and in columns."""
    rows = (masks[:, 1:] - masks[:, :-1]).square().sum((1, 2))
    columns = (masks[:, :, 1:] - masks[:, :, :-1]).square().sum((1, 2))
    return rows + columns


def edge_aware_roughness(
    masks: LogOdds, images: Images, distances: tuple[int, ...] = (1, 2, 4)
) -> Scores:
    """Mean squared difference of pixels that look alike, as far apart as each of `reaches`.

    Weights are exp(−‖colour difference‖² / (2 · 0.1²)): a mask pays for an edge where the image has
    none, and little where it has one, as in conditional random fields.

    Args:
        masks: masks at any resolution.
        images: the images, brought to that resolution.
        reaches: distances in cells of the mask, in rows and in columns.
    """
    colours = F.interpolate(images, masks.shape[1:], mode="bilinear", antialias=True)
    total = masks.new_zeros(len(masks))
    for reach in distances:
        for axis in (1, 2):
            far = torch.arange(reach, masks.shape[axis], device=masks.device)
            ahead, here = (masks.index_select(axis, i) for i in (far, far - reach))
            hue = [colours.index_select(axis + 1, i) for i in (far, far - reach)]
            weight = (-(hue[0] - hue[1]).square().sum(1) / (2 * 0.1**2)).exp()
            total = total + (weight * (ahead - here).square()).mean((1, 2))
    return total


def area(masks: Maps, power: float = 1.0) -> Scores:
    """Mean of the mask, raised to a power pixel by pixel (0.3 in the released code)."""
    if power == 1:
        return masks.mean((1, 2))
    return (masks + 0.0005).pow(power).mean((1, 2))


def log_probability(logits: Logits, targets: Targets) -> Scores:
    """Log of the softmax probability of each image's target."""
    return logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1)


def margin(logits: Logits, targets: Targets) -> Scores:
    """The target's logit minus the largest other one."""
    own = logits.gather(1, targets[:, None])
    others = logits.scatter(1, targets[:, None], float("-inf"))
    return (own - others.max(1, keepdim=True).values).squeeze(1)
