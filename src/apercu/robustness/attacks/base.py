"""What every attack is: a frozen value that climbs an aim."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from apercu.errors import ClassifierError, ConfigError
from apercu.robustness.aims import Aim
from apercu.types import Images, Scores

Knowledge: TypeAlias = Literal["gradients", "decisions"]
"""What an attack needs of the classifier: slopes, or its decisions alone."""

Norm: TypeAlias = Literal["linf", "l2"]


class Attack(ABC):
    """Changes images until they do what an aim wants; prints as its own settings."""

    needs: ClassVar[Knowledge]

    @property
    def identity(self) -> str:
        return repr(self)

    @abstractmethod
    def __call__(self, aim: Aim, images: Images) -> Images:
        """Attacked images in [0, 1], without gradients; the given ones stay as they are.

        Args:
            aim: what is climbed; it knows the classes of these images.
            images: in [0, 1].

        Raises:
            ClassifierError: the classifier does not give what the attack needs, or the aim is
                the same for all images around these.
        """


def slopes(aim: Aim, images: Images) -> tuple[Images, Scores]:
    """Gradient of the aim with respect to each image, and its value.

    Raises:
        ClassifierError: the aim has no gradient, or none that differs from 0 in any image.
    """
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        scores = aim.score(leaf)
        if not scores.requires_grad:
            raise ClassifierError(
                "attack: the answer does not depend on the image in a way that has gradients; "
                "use a decision-based attack (sparse_evo)"
            )
        (found,) = torch.autograd.grad(scores.sum(), leaf)
    if not found.any():
        raise ClassifierError(
            "attack: the objective is constant, its gradient is 0 for every pixel; a filter or "
            "the classifier hides it, so use backward: smooth, or a decision-based attack"
        )
    return found, scores.detach()


def check_budget(epsilon: float, name: str) -> None:
    """Raises ConfigError for a budget outside [0, 1], in units of the range of a pixel."""
    if not 0 <= epsilon <= 1:
        raise ConfigError(
            f"{name}: epsilon: expected a number from 0 to 1 (8/255 is 0.0314), got {epsilon:g}"
        )


def check_count(value: int, name: str) -> None:
    """Raises ConfigError for a count below 1."""
    if value < 1:
        raise ConfigError(f"{name}: expected a number of at least 1, got {value}")


def lengths(values: Tensor) -> Tensor:
    """Euclidean length of each image, shaped to divide images."""
    return values.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
