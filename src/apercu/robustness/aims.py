"""What an attack climbs, and when it has arrived."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from apercu.types import Images, Logits, Scores, Targets

Answer: TypeAlias = Callable[[Images], Logits]
"""A classifier, with or without a filter in front of it."""

Reached: TypeAlias = Bool[Tensor, " batch"]


class Aim(ABC):
    """A number per image that an attack makes larger; batches keep their order."""

    @abstractmethod
    def score(self, images: Images) -> Scores:
        """What is climbed."""

    @abstractmethod
    def reached(self, images: Images) -> Reached:
        """Whether each image does what was wanted."""


@final
@dataclass(frozen=True, eq=False)
class Untargeted(Aim):
    """Any class but the true one: climbs the cross-entropy with it.

    Args:
        answer: images → logits.
        labels: the true classes.
    """

    answer: Answer
    labels: Targets

    def score(self, images: Images) -> Scores:
        return F.cross_entropy(self.answer(images), self.labels, reduction="none")

    @torch.no_grad()
    def reached(self, images: Images) -> Reached:
        return self.answer(images).argmax(1) != self.labels


@final
@dataclass(frozen=True, eq=False)
class Targeted(Aim):
    """One class in particular: climbs its log-probability.

    Args:
        answer: images → logits.
        wanted: the classes to be seen.
    """

    answer: Answer
    wanted: Targets

    def score(self, images: Images) -> Scores:
        return -F.cross_entropy(self.answer(images), self.wanted, reduction="none")

    @torch.no_grad()
    def reached(self, images: Images) -> Reached:
        return self.answer(images).argmax(1) == self.wanted
