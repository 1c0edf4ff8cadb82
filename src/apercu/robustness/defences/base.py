"""The base class of defences: terms of a loss, and the images that a defence is for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, final

from jaxtyping import Float
from pydantic import AfterValidator, BaseModel, ConfigDict
from torch import Tensor

from apercu.classifiers.decisions import ONE_CLASS, DecidedLogits, Decision, find_decision
from apercu.errors import ConfigError
from apercu.filters import NONE, FilterLayer, parse_filter
from apercu.robustness.plan import find_objective_name, parse_attack
from apercu.types import Images, Logits, LogitsFn, Scores, Targets


@dataclass(frozen=True)
class DefenceBatch:
    """A batch of images with the network that learns from it.

    Args:
        training_logits: the network in training mode, images → logits.
        inference_logits: the same network in inference mode, whose statistics do not change.
        images: clean images in [0, 1].
        target_probabilities: probabilities that the network should give them, `batch × classes`.
        seed: seed of every draw.
        decision: how logits become probabilities and predicted classes.
    """

    training_logits: LogitsFn
    inference_logits: LogitsFn
    images: Images
    target_probabilities: Float[Tensor, "batch classes"]
    seed: int
    decision: Decision = ONE_CLASS

    @property
    def labels(self) -> Targets:
        """The class of each image: the one with the highest target probability."""
        return self.target_probabilities.argmax(1)

    def measure_agreement(self, logits: Logits) -> Scores:
        """Return for each image how far logits predict its targets, see `Decision.agreement`."""
        targets = self.decision.restore_logits(self.target_probabilities)
        return self.decision.agreement(logits, targets)

    def compute_loss(self, logits: Logits) -> Scores:
        """Compute the cross-entropy of each image's logits with its target probabilities."""
        return self.decision.cross_entropy(logits, self.target_probabilities)


class Defence(BaseModel, ABC):
    """Trains a network with its own loss; prints as its own settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def compute_losses(self, batch: DefenceBatch) -> dict[str, Scores]:
        """Compute the terms of the loss by name, one number per image; their sum is averaged."""

    @property
    def test_filters(self) -> tuple[str, ...]:
        """Names of the filters behind which the network is used, one at a time."""
        return (NONE,)

    @property
    def own_filter(self) -> str | None:
        """Name of the filter that the defended classifier has in front, if it is one alone."""
        names = [name for name in self.test_filters if name != NONE]
        return names[0] if len(names) == 1 else None

    @property
    def has_filters(self) -> bool:
        """Whether the network learns behind filters of the defence's own."""
        return any(name != NONE for name in self.test_filters)

    def prepare_clean(self, images: Images) -> Images:
        """Return clean images as the network receives them, without gradients."""
        return images

    @abstractmethod
    def make_hard_images(self, batch: DefenceBatch) -> Images:
        """Return the images that the defence is for, as the network receives them; no gradients."""


def put_filter_in_front(name: str, logits_fn: LogitsFn) -> LogitsFn:
    """Put a filter in front of a network; gradients pass it as if it was not there."""
    filter = parse_filter(name)
    if filter is None:
        return logits_fn
    layer = FilterLayer(filter, "straight_through")
    return DecidedLogits(lambda images: logits_fn(layer(images)), find_decision(logits_fn))


def _check_attack(text: str) -> str:
    """Return the text if it names an attack on the class."""
    if find_objective_name(text) != "class":
        raise ValueError(
            f"attacks: {text}: a network learns from attacks on the class, such as pgd"
        )
    return _check_parses(parse_attack, text)


def _check_filter(text: str) -> str:
    """Return the text if it names a filter."""
    return _check_parses(parse_filter, text)


def _check_parses(parse: Callable[[str], object], text: str) -> str:
    """Return the text if it can be parsed; pydantic expects a ValueError."""
    try:
        parse(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return text


AttackName = Annotated[str, AfterValidator(_check_attack)]
FilterName = Annotated[str, AfterValidator(_check_filter)]


@final
class Standard(Defence):
    """Trains with clean images alone."""

    form: Literal["standard"] = "standard"

    def compute_losses(self, batch: DefenceBatch) -> dict[str, Scores]:
        return {"honest": batch.compute_loss(batch.training_logits(batch.images))}

    def make_hard_images(self, batch: DefenceBatch) -> Images:
        return batch.images
