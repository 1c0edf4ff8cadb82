"""The base of the objectives of masks, and the terms that they share."""

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
    """One batch of a training: images, and the classes whose evidence the masks should show.

    Attributes:
        images: images in [0, 1], as the classifier takes them.
        targets: class of each mask.
        real: whether the classifier predicts that class; false for a fake class.
        predicted: class that the classifier predicts; equal to `targets` where `real`.
    """

    images: Images
    targets: Targets
    real: torch.Tensor
    predicted: Targets


class MaskObjective(BaseModel, ABC):
    """Scores masks by what a classifier predicts of what they keep and remove."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def compute_terms(
        self,
        classifier: Callable[[Images], Logits],
        batch: MaskBatch,
        evidence: Evidence,
        generator: Generator,
    ) -> Terms:
        """Return the weighted terms of the loss.

        Args:
            classifier: a classifier, or another function from images in [0, 1] to logits, with
                gradients.
            batch: the images and classes of the step.
            evidence: log-odds of the masks, at their own resolution.
            generator: source of every random draw.

        Returns:
            The terms by name, one number per image each.
        """


def roughness(masks: Maps) -> Scores:
    """Return the sum of the squared differences of neighbours, in rows and in columns."""
    rows = (masks[:, 1:] - masks[:, :-1]).square().sum((1, 2))
    columns = (masks[:, :, 1:] - masks[:, :, :-1]).square().sum((1, 2))
    return rows + columns


def edge_aware_roughness(
    masks: LogOdds, images: Images, distances: tuple[int, ...] = (1, 2, 4)
) -> Scores:
    """Return the mean squared difference of mask pixels whose image pixels look alike.

    Weights are exp(−‖colour difference‖² / (2 · 0.1²)): an edge of the mask costs much where the
    image has none, and little where it has one, as in conditional random fields.

    Args:
        masks: masks at any resolution.
        images: images, which are resized to that resolution.
        distances: distances of the compared pixels in cells of the mask, in rows and in columns.

    Returns:
        One number per image.
    """
    colours = F.interpolate(images, masks.shape[1:], mode="bilinear", antialias=True)
    total = masks.new_zeros(len(masks))
    for distance in distances:
        for axis in (1, 2):
            second = torch.arange(distance, masks.shape[axis], device=masks.device)
            pairs = (second, second - distance)
            values = [masks.index_select(axis, index) for index in pairs]
            hues = [colours.index_select(axis + 1, index) for index in pairs]
            weight = (-(hues[0] - hues[1]).square().sum(1) / (2 * 0.1**2)).exp()
            total = total + (weight * (values[0] - values[1]).square()).mean((1, 2))
    return total


def area(masks: Maps, power: float = 1.0) -> Scores:
    """Return the mean of the mask's pixels, raised to a power (0.3 in the released code)."""
    if power == 1:
        return masks.mean((1, 2))
    return (masks + 0.0005).pow(power).mean((1, 2))
