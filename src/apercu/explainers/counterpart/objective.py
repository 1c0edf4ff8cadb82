"""What counterparts are trained for (Charachon et al. 2020, and 2021 for CyCE and SyCE)."""

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
"""Images, what they are seen as, what they should be seen as → counterparts."""


@dataclass(frozen=True, eq=False)
class CounterpartBatch:
    """What a step asks for.

    Attributes:
        images: in [0, 1].
        seen: the classes that the classifier sees in them.
        wanted: the classes that it should see in their adversarial counterparts.
    """

    images: Images
    predicted: Targets
    targets: Targets


class CounterpartObjective(BaseModel):
    """Weights of the terms.

    Attributes:
        stable: what the adversarial image is compared with: the `similar` head's image, the
            generator applied `twice` (SyCE), or the image `itself` (CyCE).
        similarity: of the L1 and L2 distance of the stable image from the image.
        closeness: of the same distance between the stable and the adversarial image.
        keep: of the cross-entropy of the stable image with what the image is seen as.
        flip: of the cross-entropy of the adversarial image with what is wanted.
        cycle: of the distance of the image from its adversarial image's adversarial image.
        cycle_keep: of the cross-entropy of that one with what the image is seen as.
        smoothness: of the total variation of the difference.
        scarcity: of the mean of the places that are changed.
        plausibility: of what a discriminator that knows the class finds wrong with the adversarial
            image.
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

    def terms(
        self,
        batch: CounterpartBatch,
        pair: CounterpartPair,
        generate: GenerateFunction,
        classifier: Callable[[Images], Logits],
    ) -> Terms:
        """The weighted terms of each image, without the discriminator's.

        Args:
            asked: the images and classes of the step.
            pair: their counterparts.
            generate: makes further ones, where the settings want a cycle.
            classifier: judges them.
        """
        images, seen, wanted = batch.images, batch.predicted, batch.targets
        adversarial = pair.adversarial
        stable = self.select_stable(batch, pair, generate)
        terms = {
            "closeness": self.closeness * distance(stable, adversarial),
            "flip": self.flip * cross_entropy(classifier, adversarial, wanted),
        }
        if self.stable != "itself":
            terms["similarity"] = self.similarity * distance(images, stable)
            terms["keep"] = self.keep * cross_entropy(classifier, stable, seen)
        if self.cycle or self.cycle_keep:
            back = generate(adversarial, wanted, seen).adversarial
            terms["cycle"] = self.cycle * distance(images, back)
            terms["cycle_keep"] = self.cycle_keep * cross_entropy(classifier, back, seen)
        if self.smoothness:
            terms["smoothness"] = self.smoothness * total_variation(adversarial - stable)
        if self.scarcity:
            terms["scarcity"] = self.scarcity * pair.change_masks.mean((1, 2, 3))
        return terms

    def select_stable(
        self, batch: CounterpartBatch, pair: CounterpartPair, generate: GenerateFunction
    ) -> Images:
        """What the adversarial images are compared with."""
        if self.stable == "similar":
            return pair.similar
        if self.stable == "twice":
            return generate(pair.adversarial, batch.predicted, batch.targets).adversarial
        return batch.images


def distance(one: Images, other: Images) -> Scores:
    """Mean absolute plus mean squared difference."""
    difference = one - other
    return (difference.abs() + difference.square()).mean((1, 2, 3))


def cross_entropy(
    classifier: Callable[[Images], Logits], images: Images, targets: Targets
) -> Scores:
    return F.cross_entropy(classifier(images), targets, reduction="none")


def total_variation(difference: Tensor) -> Scores:
    """Total variation: mean absolute difference of neighbours, down and across."""
    down = difference.diff(dim=2).abs().mean((1, 2, 3))
    return down + difference.diff(dim=3).abs().mean((1, 2, 3))
