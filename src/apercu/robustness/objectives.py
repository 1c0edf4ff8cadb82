"""What an attack climbs, and when it has arrived."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from apercu.explainers.mask.objectives.base import margin
from apercu.robustness.measures import rank_correlation
from apercu.types import Images, Logits, Maps, Scores, Targets

LogitsFn: TypeAlias = Callable[[Images], Logits]
"""A classifier, with or without a filter in front of it."""

BatchFlags: TypeAlias = Bool[Tensor, " batch"]

TARGET_MARGIN = 1.0
"""By how much the logit of a class should lead while its map is moved."""
MARGIN_WEIGHT = 10.0
"""How much more a logit that falls short counts than a map that stays."""


class AttackObjective(ABC):
    """A number per image that an attack makes larger; batches keep their order.

    Attributes:
        flat: whether it is lowest at the honest images, where it has no slope then.
    """

    stationary_at_clean: ClassVar[bool] = False

    @abstractmethod
    def score(self, images: Images) -> Scores:
        """What is climbed."""

    @abstractmethod
    def is_adversarial(self, images: Images) -> BatchFlags:
        """Whether each image does what was wanted."""


def cross_entropy(logits: Logits, labels: Targets) -> Scores:
    """Of each answer with its class."""
    return F.cross_entropy(logits, labels, reduction="none")


def negative_margin(logits: Logits, labels: Targets) -> Scores:
    """By how much the logit of a class is below the best of the others.

    In float32 the cross-entropy of a class that leads by about 17 no longer depends on the logit
    of that class, and by about 104 on none; this difference depends on both throughout (objective
    6 of Carlini & Wagner 2017, which climb it for that reason).
    """
    return -margin(logits, labels)


@final
@dataclass(frozen=True, eq=False)
class Untargeted(AttackObjective):
    """Any class but the true one.

    Args:
        answer: images → logits.
        labels: the true classes.
        loss: of an answer, for the attacks that climb any aim.
    """

    logits_fn: LogitsFn
    labels: Targets
    loss: Callable[[Logits, Targets], Scores] = cross_entropy

    def score(self, images: Images) -> Scores:
        return self.loss(self.logits_fn(images), self.labels)

    @torch.no_grad()
    def is_adversarial(self, images: Images) -> BatchFlags:
        return self.logits_fn(images).argmax(1) != self.labels


@final
@dataclass(frozen=True, eq=False)
class Targeted(AttackObjective):
    """One class in particular: climbs its log-probability.

    Args:
        answer: images → logits.
        wanted: the classes to be seen.
    """

    logits_fn: LogitsFn
    targets: Targets

    def score(self, images: Images) -> Scores:
        return -cross_entropy(self.logits_fn(images), self.targets)

    @torch.no_grad()
    def is_adversarial(self, images: Images) -> BatchFlags:
        return self.logits_fn(images).argmax(1) == self.targets


@final
@dataclass(frozen=True, eq=False)
class MapDistance(AttackObjective):
    """The class stays and its map moves: climbs one less their correlation.

    Args:
        answer: images → logits.
        explain: images → maps for their classes, with gradients.
        labels: the classes that are seen, and stay.
        honest: the maps of the honest images.
    """

    stationary_at_clean: ClassVar[bool] = True

    logits_fn: LogitsFn
    explain: Callable[[Images], Maps]
    labels: Targets
    clean_maps: Maps

    def score(self, images: Images) -> Scores:
        logits = self.logits_fn(images)
        short = F.relu(TARGET_MARGIN - margin(logits, self.labels))
        return 1 - _correlate_maps(self.explain(images), self.clean_maps) - MARGIN_WEIGHT * short

    @torch.no_grad()
    def is_adversarial(self, images: Images) -> BatchFlags:
        """Whether the class is still seen, and the map has nothing in common with the honest."""
        moved = rank_correlation(self.clean_maps, self.explain(images)) <= 0
        return moved & (self.logits_fn(images).argmax(1) == self.labels)


@final
@dataclass(frozen=True, eq=False)
class ExpectationOverTransforms(AttackObjective):
    """Another aim, expected over noise on the image (Athalye et al. 2018).

    A slope that only one exact image has, such as that of a staircase, is averaged away.

    Args:
        aim: what is climbed.
        copies: how many noisy copies.
        noise: standard deviation of the noise, in units of the range [0, 1].
        seed: of the noise, which is the same for every image and every step.
    """

    objective: AttackObjective
    copies: int = 8
    noise: float = 4 / 255
    seed: int = 0

    def score(self, images: Images) -> Scores:
        generator = torch.Generator().manual_seed(self.seed)
        draws = torch.randn((self.copies, *images.shape[1:]), generator=generator).to(images)
        shown = ((images + self.noise * draw).clamp(0, 1) for draw in draws)
        return torch.stack([self.objective.score(one) for one in shown]).mean(0)

    def is_adversarial(self, images: Images) -> BatchFlags:
        return self.objective.is_adversarial(images)


def _correlate_maps(first: Maps, second: Maps) -> Scores:
    """Pearson's correlation of the pixels of two maps of the same image."""
    one, other = (
        values.flatten(1) - values.flatten(1).mean(1, keepdim=True) for values in (first, second)
    )
    return F.cosine_similarity(one, other, dim=1)
