"""The objective of counterparts (Charachon et al. 2020, and 2021 for CyCE and SyCE)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from apercu.explainers.counterpart.network import CounterpartPair
from apercu.types import Images, Logits, Scores, Targets

Terms: TypeAlias = Mapping[str, Scores]
GenerateFunction: TypeAlias = Callable[[Images, Targets, Targets], CounterpartPair]
"""From images, their predicted classes and the target classes to counterparts."""


@dataclass(frozen=True, eq=False)
class CounterpartBatch:
    """One batch of a training: images, and the classes before and after the change.

    Attributes:
        images: images in [0, 1].
        predicted: classes that the classifier predicts for them.
        targets: classes that it should predict for their adversarial counterparts.
    """

    images: Images
    predicted: Targets
    targets: Targets


class CounterpartObjective(BaseModel):
    """The weighted terms of the loss.

    Attributes:
        stable: image that the adversarial image is compared with: that of the `similar` head, of
            the generator applied `twice` (SyCE), or the image `itself` (CyCE).
        similarity: weight of the L1 and L2 distance of the stable image from the image.
        closeness: weight of the same distance between the stable and the adversarial image.
        keep: weight of the cross-entropy of the stable image with the predicted class.
        flip: weight of the cross-entropy of the adversarial image with the target.
        cycle: weight of the distance of the image from its adversarial image's adversarial image.
        cycle_keep: weight of the cross-entropy of that image with the predicted class.
        smoothness: weight of the total variation of the difference.
        scarcity: weight of the mean of the masks of the change.
        plausibility: weight of the loss that a discriminator, which knows the class, gives the
            adversarial image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    stable: Literal["similar", "twice", "itself"] = "similar"
    similarity: float = Field(10.0, ge=0)
    closeness: float = Field(2.0, ge=0)
    keep: float = Field(0.2, ge=0)
    flip: float = Field(0.6, ge=0)
    cycle: float = Field(0.0, ge=0)
    cycle_keep: float = Field(0.0, ge=0)
    smoothness: float = Field(0.5, ge=0)
    scarcity: float = Field(0.3, ge=0)
    plausibility: float = Field(0.1, ge=0)

    def compute_terms(
        self,
        batch: CounterpartBatch,
        pair: CounterpartPair,
        generate: GenerateFunction,
        classifier: Callable[[Images], Logits],
    ) -> Terms:
        """Return the weighted terms, one number per image each, without the discriminator's.

        Args:
            batch: the images and classes of the step.
            pair: the counterparts of the images.
            generate: makes further counterparts, where the settings need them.
            classifier: function from images in [0, 1] to logits, with gradients.

        Returns:
            The terms by name, one number per image each.
        """
        images, predicted, targets = batch.images, batch.predicted, batch.targets
        adversarial = pair.adversarial
        stable = self.select_stable(batch, pair, generate)
        terms = {
            "closeness": self.closeness * distance(stable, adversarial),
            "flip": self.flip * cross_entropy(classifier, adversarial, targets),
        }
        if self.stable != "itself":
            terms["similarity"] = self.similarity * distance(images, stable)
            terms["keep"] = self.keep * cross_entropy(classifier, stable, predicted)
        if self.cycle or self.cycle_keep:
            back = generate(adversarial, targets, predicted).adversarial
            terms["cycle"] = self.cycle * distance(images, back)
            terms["cycle_keep"] = self.cycle_keep * cross_entropy(classifier, back, predicted)
        if self.smoothness:
            terms["smoothness"] = self.smoothness * total_variation(adversarial - stable)
        if self.scarcity:
            terms["scarcity"] = self.scarcity * pair.change_masks.mean((1, 2, 3))
        return terms

    def select_stable(
        self, batch: CounterpartBatch, pair: CounterpartPair, generate: GenerateFunction
    ) -> Images:
        """Return the images that the adversarial ones are compared with."""
        if self.stable == "similar":
            return pair.similar
        if self.stable == "twice":
            return generate(pair.adversarial, batch.predicted, batch.targets).adversarial
        return batch.images


def distance(one: Images, other: Images) -> Scores:
    """Return the mean absolute plus the mean squared difference of each pair of images."""
    difference = one - other
    return (difference.abs() + difference.square()).mean((1, 2, 3))


def cross_entropy(
    classifier: Callable[[Images], Logits], images: Images, targets: Targets
) -> Scores:
    """Return the cross-entropy of each image's logits with its target."""
    return F.cross_entropy(classifier(images), targets, reduction="none")


def total_variation(difference: Tensor) -> Scores:
    """Return the total variation: the mean absolute difference of neighbours, down and across."""
    down = difference.diff(dim=2).abs().mean((1, 2, 3))
    return down + difference.diff(dim=3).abs().mean((1, 2, 3))
