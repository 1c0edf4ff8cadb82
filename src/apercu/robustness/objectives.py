"""Objectives of attacks: a score that an attack maximises, and when an image is adversarial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from apercu.classifiers.decisions import ONE_CLASS, Decision, find_decision
from apercu.devices import copy_inference
from apercu.statistics import spearman
from apercu.types import Images, Logits, LogitsFn, Maps, Scores, Targets

if TYPE_CHECKING:
    from apercu.guard import Guard

BatchFlags: TypeAlias = Bool[Tensor, " batch"]

TARGET_MARGIN = 1.0
"""Margin that the logit of a class should keep while its map is moved."""
MARGIN_WEIGHT = 10.0
"""Weight of a margin that is too small, relative to the distance of the maps."""
EVASION_WEIGHT = 1.0
"""Weight of the logarithm of what is above a guard's limits, beside the margin in logits."""
FULL_MARGIN = 3.0
"""Margin of another class beyond which only the guard matters."""


class AttackObjective(ABC):
    """A score per image that an attack maximises; the images of a batch keep their order.

    Attributes:
        stationary_at_clean: whether the score is lowest at the clean images, without a gradient.
    """

    stationary_at_clean: ClassVar[bool] = False

    @abstractmethod
    def score(self, images: Images) -> Scores:
        """Compute the score of each image, which an attack maximises."""

    @abstractmethod
    def is_adversarial(self, images: Images) -> BatchFlags:
        """Return for each image whether it is adversarial."""


def cross_entropy(logits: Logits, labels: Targets, decision: Decision = ONE_CLASS) -> Scores:
    """Compute the cross-entropy of the logits of each image with its class."""
    return decision.target_cross_entropy(logits, labels)


def negative_margin(logits: Logits, labels: Targets, decision: Decision = ONE_CLASS) -> Scores:
    """Compute by how much the logit of a class is below the highest logit of the others.

    In float32 the cross-entropy of a class that leads by about 17 no longer depends on the logit
    of that class, and of a class that leads by about 104 on no logit at all. This difference always
    depends on both logits (objective 6 of Carlini & Wagner 2017, who maximise it for this reason).
    """
    return -decision.margin(logits, labels)


@final
@dataclass(frozen=True, eq=False)
class Untargeted(AttackObjective):
    """Any class except the true one: maximises a loss of the true class.

    Args:
        logits_fn: images → logits.
        labels: class indices of the true classes.
        loss: loss of the logits, labels and decision, for the attacks that maximise any objective.
    """

    logits_fn: LogitsFn
    labels: Targets
    loss: Callable[[Logits, Targets, Decision], Scores] = cross_entropy

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", copy_inference(self.labels))

    def score(self, images: Images) -> Scores:
        return self.loss(self.logits_fn(images), self.labels, find_decision(self.logits_fn))

    @torch.no_grad()
    def is_adversarial(self, images: Images) -> BatchFlags:
        decision = find_decision(self.logits_fn)
        return ~decision.is_predicted(self.logits_fn(images), self.labels)


@final
@dataclass(frozen=True, eq=False)
class Targeted(AttackObjective):
    """One class in particular: maximises its log-probability.

    Args:
        logits_fn: images → logits.
        targets: class indices that the classifier should predict.
    """

    logits_fn: LogitsFn
    targets: Targets

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", copy_inference(self.targets))

    def score(self, images: Images) -> Scores:
        decision = find_decision(self.logits_fn)
        return -cross_entropy(self.logits_fn(images), self.targets, decision)

    @torch.no_grad()
    def is_adversarial(self, images: Images) -> BatchFlags:
        decision = find_decision(self.logits_fn)
        return decision.is_predicted(self.logits_fn(images), self.targets)


@final
@dataclass(frozen=True, eq=False)
class MapDistance(AttackObjective):
    """Another map for the same class: maximises one minus the correlation of the maps.

    Args:
        logits_fn: images → logits.
        explain: images → maps of their classes, with gradients.
        labels: class indices of the predicted classes, which should stay.
        clean_maps: maps of the clean images.
    """

    stationary_at_clean: ClassVar[bool] = True

    logits_fn: LogitsFn
    explain: Callable[[Images], Maps]
    labels: Targets
    clean_maps: Maps

    def __post_init__(self) -> None:
        for name in ("labels", "clean_maps"):
            object.__setattr__(self, name, copy_inference(getattr(self, name)))

    def score(self, images: Images) -> Scores:
        decision, logits = find_decision(self.logits_fn), self.logits_fn(images)
        shortfall = F.relu(TARGET_MARGIN - decision.margin(logits, self.labels))
        return (
            1 - _correlate_maps(self.explain(images), self.clean_maps) - MARGIN_WEIGHT * shortfall
        )

    @torch.no_grad()
    def is_adversarial(self, images: Images) -> BatchFlags:
        """Whether the class is still predicted, and the map does not correlate with before."""
        moved = spearman(self.clean_maps.flatten(1), self.explain(images).flatten(1)) <= 0
        decision = find_decision(self.logits_fn)
        return moved & decision.is_predicted(self.logits_fn(images), self.labels)


@final
@dataclass(frozen=True, eq=False)
class ExpectationOverTransforms(AttackObjective):
    """Another objective, averaged over noise on the image (Athalye et al. 2018).

    This averages away gradients that only one exact image has, such as those of a staircase.

    Args:
        objective: the objective that is averaged.
        copies: number of noisy copies.
        noise: standard deviation of the noise, in units of the range [0, 1].
        seed: seed of the noise, which is the same for every image and every step.
    """

    objective: AttackObjective
    copies: int = 8
    noise: float = 4 / 255
    seed: int = 0

    def score(self, images: Images) -> Scores:
        generator = torch.Generator().manual_seed(self.seed)
        draws = torch.randn((self.copies, *images.shape[1:]), generator=generator).to(images)
        noisy = ((images + self.noise * draw).clamp(0, 1) for draw in draws)
        return torch.stack([self.objective.score(copy) for copy in noisy]).mean(0)

    def is_adversarial(self, images: Images) -> BatchFlags:
        return self.objective.is_adversarial(images)


@final
@dataclass(frozen=True, eq=False)
class GuardEvasion(AttackObjective):
    """Any class except the predicted one, without an alarm of a guard: the attacker knows of it.

    Args:
        guard: the guard.
        labels: classes that are predicted for the clean images.
    """

    guard: Guard
    labels: Targets

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", copy_inference(self.labels))

    def score(self, images: Images) -> Scores:
        observation = self.guard.observer.observe(images)
        network = self.guard.network.to(images.device)
        decision = self.guard.observer.classifier.decision
        margin = -decision.margin(observation.logits, self.labels)
        standardised = (network.measure(observation) - network.centre) / network.spread
        limits = network.find_limits(self.guard.record.false_alarms)
        excess = (network.combine(standardised) - limits).clamp(min=0)
        return margin.clamp(max=FULL_MARGIN) - EVASION_WEIGHT * excess.log1p().sum(1)

    @torch.no_grad()
    def is_adversarial(self, images: Images) -> BatchFlags:
        """Whether another class is predicted; an alarm does not make the attack fail."""
        decision = self.guard.observer.classifier.decision
        observation = self.guard.observer.observe(images)
        return ~decision.is_predicted(observation.logits, self.labels)


def _correlate_maps(first: Maps, second: Maps) -> Scores:
    """Compute Pearson's correlation of the pixels of two maps of the same image."""
    first, second = (
        values.flatten(1) - values.flatten(1).mean(1, keepdim=True) for values in (first, second)
    )
    return F.cosine_similarity(first, second, dim=1)
