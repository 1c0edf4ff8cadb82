"""What every defence is: terms of a loss, and images that should be answered as the honest ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from pydantic import AfterValidator, BaseModel, ConfigDict
from torch import Tensor

from apercu.errors import ConfigError
from apercu.robustness.filters import FilterLayer
from apercu.robustness.named import NONE, aim_of, attack_named, filter_named
from apercu.robustness.objectives import Answer
from apercu.types import Images, Logits, Scores, Targets


@dataclass(frozen=True)
class Lesson:
    """One batch.

    Args:
        learns: the network as it is trained, images → logits.
        judges: the same network as it will be used: its statistics stand still.
        images: honest ones.
        wanted: probabilities that the network should give them.
        seed: of every draw.
    """

    learns: Answer
    judges: Answer
    images: Images
    wanted: Float[Tensor, "batch classes"]
    seed: int

    @property
    def labels(self) -> Targets:
        """The class of each image."""
        return self.wanted.argmax(1)

    def loss(self, logits: Logits) -> Scores:
        """Cross-entropy of an answer with what is wanted."""
        return -(self.wanted * logits.log_softmax(1)).sum(1)


class Defence(BaseModel, ABC):
    """Teaches a network by a loss of its own; prints as its own settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def terms(self, lesson: Lesson) -> dict[str, Scores]:
        """Named parts of the loss, one number per image; the loss is the mean of their sum."""

    @property
    def shown_behind(self) -> tuple[str, ...]:
        """Filters that stand in front of the network when it is used, one at a time."""
        return (NONE,)

    def usual(self, images: Images) -> Images:
        """Honest images as the network receives them; no gradients."""
        return images

    @abstractmethod
    def hard(self, lesson: Lesson) -> Images:
        """The images as the network receives them when it needs its defence; no gradients."""


def in_front(name: str, answer: Answer) -> Answer:
    """A network behind a filter, through which gradients go as if it was not there."""
    filter = filter_named(name)
    if filter is None:
        return answer
    layer = FilterLayer(filter, "straight")
    return lambda images: answer(layer(images))


def _attack(text: str) -> str:
    if aim_of(text) != "class":
        raise ValueError(
            f"attacks: {text}: a network learns from attacks on the class, such as pgd"
        )
    return _said(attack_named, text)


def _filter(text: str) -> str:
    return _said(filter_named, text)


def _said(read: object, text: str) -> str:
    """The text, if it can be read; pydantic wants a ValueError."""
    try:
        read(text)  # type: ignore[operator]
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return text


AttackName = Annotated[str, AfterValidator(_attack)]
FilterName = Annotated[str, AfterValidator(_filter)]
