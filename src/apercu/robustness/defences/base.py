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
from apercu.robustness.objectives import LogitsFn
from apercu.robustness.plan import NONE, find_objective_name, parse_attack, parse_filter
from apercu.types import Images, Logits, Scores, Targets


@dataclass(frozen=True)
class DefenceBatch:
    """One batch.

    Args:
        learns: the network as it is trained, images → logits.
        judges: the same network as it will be used: its statistics stand still.
        images: honest ones.
        wanted: probabilities that the network should give them.
        seed: of every draw.
    """

    training_logits: LogitsFn
    inference_logits: LogitsFn
    images: Images
    target_probabilities: Float[Tensor, "batch classes"]
    seed: int

    @property
    def labels(self) -> Targets:
        """The class of each image."""
        return self.target_probabilities.argmax(1)

    def compute_loss(self, logits: Logits) -> Scores:
        """Cross-entropy of an answer with what is wanted."""
        return -(self.target_probabilities * logits.log_softmax(1)).sum(1)


class Defence(BaseModel, ABC):
    """Teaches a network by a loss of its own; prints as its own settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def compute_losses(self, lesson: DefenceBatch) -> dict[str, Scores]:
        """Named parts of the loss, one number per image; the loss is the mean of their sum."""

    @property
    def test_filters(self) -> tuple[str, ...]:
        """Filters that stand in front of the network when it is used, one at a time."""
        return (NONE,)

    def prepare_clean(self, images: Images) -> Images:
        """Honest images as the network receives them; no gradients."""
        return images

    @abstractmethod
    def make_hard_images(self, lesson: DefenceBatch) -> Images:
        """The images as the network receives them when it needs its defence; no gradients."""


def put_filter_in_front(name: str, answer: LogitsFn) -> LogitsFn:
    """A network behind a filter, through which gradients go as if it was not there."""
    filter = parse_filter(name)
    if filter is None:
        return answer
    layer = FilterLayer(filter, "straight_through")
    return lambda images: answer(layer(images))


def _check_attack(text: str) -> str:
    if find_objective_name(text) != "class":
        raise ValueError(
            f"attacks: {text}: a network learns from attacks on the class, such as pgd"
        )
    return _check_parses(parse_attack, text)


def _check_filter(text: str) -> str:
    return _check_parses(parse_filter, text)


def _check_parses(read: object, text: str) -> str:
    """The text, if it can be read; pydantic wants a ValueError."""
    try:
        read(text)  # type: ignore[operator]
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return text


AttackName = Annotated[str, AfterValidator(_check_attack)]
FilterName = Annotated[str, AfterValidator(_check_filter)]
