"""What every attack is: a frozen value that climbs an aim."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from apercu.errors import ClassifierError, ConfigError
from apercu.robustness.objectives import AttackObjective
from apercu.types import Images, Scores

Access: TypeAlias = Literal["gradients", "decisions"]
"""What an attack needs of the classifier: slopes, or its decisions alone."""

Norm: TypeAlias = Literal["linf", "l2"]

QueryCounts: TypeAlias = Int[Tensor, " batch"]

START_NOISE = 1 / 255
"""Largest change of a value by the random step beside an image."""


class Attack(ABC):
    """Changes images until they do what an aim wants; prints as its own settings.

    Attributes:
        needs: of the classifier.
        climbs: whether it climbs any aim; the others know nothing but classes.
        neighbours: whether it looks at the other images of a batch.
    """

    needs: ClassVar[Access]
    any_objective: ClassVar[bool] = False
    uses_whole_batch: ClassVar[bool] = False

    @property
    def identity(self) -> str:
        return repr(self)

    @abstractmethod
    def __call__(self, aim: AttackObjective, images: Images) -> Images:
        """Attacked images in [0, 1], without gradients; the given ones stay as they are.

        Args:
            aim: what is climbed; it knows the classes of these images.
            images: in [0, 1].

        Raises:
            ClassifierError: the classifier does not give what the attack needs, or the aim is
                the same for all images.
        """


class QueryCountingAttack(Attack):
    """One that counts what it asks."""

    def __call__(self, aim: AttackObjective, images: Images) -> Images:
        return self.attack_and_count(aim, images)[0]

    @abstractmethod
    def attack_and_count(self, aim: AttackObjective, images: Images) -> tuple[Images, QueryCounts]:
        """Attacked images as of `__call__`, and how many decisions were asked for each."""


def compute_gradients(
    aim: AttackObjective, images: Images, *, clean: Images | None = None
) -> tuple[Images, Scores]:
    """Gradient of the aim with respect to each image, and its value; an image on a plateau has 0.

    Args:
        aim: what is climbed.
        images: where the slope is wanted.
        honest: in the first step of an attack, the images that it was given: if none that has yet
            to arrive has a slope, the aim is asked whether it has one at all.

    Raises:
        ClassifierError: the aim has no gradient, or in the first step one of 0 everywhere.
    """
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        scores = aim.score(leaf)
        found = None
        if scores.requires_grad:
            (found,) = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)
    if found is None:
        raise ClassifierError(
            "attack: the answer does not depend on the image in a way that has gradients; "
            "use a decision-based attack (sparse_evo)"
        )
    if clean is not None and not found.any() and _is_constant(aim, clean):
        raise ClassifierError(
            "attack: the objective is constant, its gradient is 0 for every pixel; a filter or "
            "the classifier hides it, so climb the margin (margin_pgd), or use a decision-based "
            "attack (sparse_evo)"
        )
    return found, scores.detach()


def _is_constant(aim: AttackObjective, images: Images) -> bool:
    """Whether images that have yet to arrive have no slope: as they are, on their way to grey, or
    as noise."""
    still = ~aim.is_adversarial(images)
    noise = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
    grey = torch.full_like(images, 0.5)
    shown = (images, (images + grey) / 2, grey, noise.expand_as(images))
    return bool(still.any()) and not any(
        compute_gradients(aim, one)[0][still].any() for one in shown
    )


def check_gradients(aim: AttackObjective, images: Images) -> None:
    """Raises ClassifierError for an aim without gradients, or whose gradient is 0 everywhere."""
    compute_gradients(aim, images, clean=images)


def choose_start(aim: AttackObjective, images: Images) -> Images:
    """Where the first slope is taken: the images, or beside them where an aim has none there.

    The small random step is the same for every image.
    """
    if not aim.stationary_at_clean:
        return images
    draws = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0))
    return (images + START_NOISE * (2 * draws - 1).to(images)).clamp(0, 1)


def check_budget(epsilon: float, name: str) -> None:
    """Raises ConfigError for a budget of 0 or above 1, in units of the range of a pixel."""
    if not 0 < epsilon <= 1:
        raise ConfigError(
            f"{name}: epsilon: expected a number above 0 and up to 1 (8/255 is 0.0314), "
            f"got {epsilon:g}"
        )


def check_count(value: int, name: str) -> None:
    """Raises ConfigError for a count below 1."""
    if value < 1:
        raise ConfigError(f"{name}: expected a number of at least 1, got {value}")


def check_pace(pace: float, name: str) -> None:
    """Raises ConfigError for a length of a step that is not above 0."""
    if not 0 < pace < math.inf:
        raise ConfigError(f"{name}: pace: expected a number above 0, got {pace:g}")


def check_not_negative(value: float, name: str) -> None:
    """Raises ConfigError for what is added to a distance and is not at least 0."""
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name}: expected a number of at least 0, got {value:g}")


def check_fraction(value: float, name: str) -> None:
    """Raises ConfigError for a share outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}: expected a share from 0 to 1, got {value:g}")


def compute_lengths(values: Tensor) -> Tensor:
    """Euclidean length of each image, shaped to divide images."""
    return values.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
