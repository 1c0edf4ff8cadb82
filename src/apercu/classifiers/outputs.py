"""What the numbers of a network mean, and how they become logits.

`output` of a card is one of the words in `MEANINGS`. An `Output` turns the numbers into logits,
and its `decision` says what the logits mean. One number becomes two logits, of "not class" and of
"class", or of "lower" and "higher"; so the rest of the package knows classes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args

import torch
from jaxtyping import Float
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_serializer
from torch import Tensor

from apercu.classifiers.decisions import (
    EACH_CLASS,
    ONE_CLASS,
    SMALLEST_PROBABILITY,
    Decision,
    clamp_probability,
)
from apercu.classifiers.names import ClassNames
from apercu.errors import ClassifierError, NotFiniteError, format_shape, suggest_nearest
from apercu.types import Logits

OutputName: TypeAlias = Literal[
    "logits",
    "probabilities",
    "probability",
    "sigmoid",
    "sigmoid_probabilities",
    "value",
    "features",
]
"""The words of a card."""


def _read_position(key: object) -> object:
    return str(key) if isinstance(key, int) and not isinstance(key, bool) else key


OutputKey: TypeAlias = Annotated[str, BeforeValidator(_read_position)]
"""A key, a field or a position of a tensor that a network returns; positions may be numbers."""

MEANINGS: dict[OutputName, str] = {
    "logits": "a logit per class, one class is true (softmax)",
    "probabilities": "a probability per class, which sum to 1",
    "probability": "one number, the probability of the second of two classes",
    "sigmoid": "a logit per class, each class is true or not by itself; or one logit",
    "sigmoid_probabilities": "a probability per class, each class by itself",
    "value": "one number, a regression, whose targets are lower and higher",
    "features": "features of a network that was trained without classes",
}

SYNONYMS = {
    "logit": "sigmoid",
    "binary": "sigmoid",
    "multilabel": "sigmoid",
    "multi_label": "sigmoid",
    "multi-label": "sigmoid",
    "sigmoids": "sigmoid_probabilities",
    "softmax": "probabilities",
    "regression": "value",
}
"""Words that people may type, and the word that they probably mean."""

_ONE_NUMBER: tuple[OutputName, ...] = ("sigmoid", "probability", "value")
_PER_CLASS: tuple[OutputName, ...] = ("logits", "probabilities", "sigmoid", "sigmoid_probabilities")
_PROBABILITIES = ("probabilities", "probability", "sigmoid_probabilities")
_LARGEST_MISS = 0.02
"""By how much a sum of probabilities may miss 1, with numbers of half precision."""
_STEPS = (0.1, 0.01, 0.001, 0.0001, 1 / 255, 1 / 256)
"""Steps to which probabilities are rounded: one to four decimal places, and bytes."""
_MOST_ROUNDED = 0.5
"""By how much rounding may make a sum of probabilities miss 1."""
LOGIT_RANGE = 4.0
"""Distance of the logits of the two ends of `value_range`: from −2 to 2."""


class Output(BaseModel):
    """What the numbers of an opened classifier mean.

    Attributes:
        name: the word of the card.
        columns: how many numbers an image has.
        value_range: a low and a high value of a regression; at the middle of the two, "lower" and
            "higher" have the same probability.
        temperature: number by which logits are divided, so that probabilities are calibrated; None
            where they are as the network gives them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: OutputName = "logits"
    columns: int | None = Field(default=None, ge=1)
    value_range: tuple[float, float] | None = None
    temperature: float | None = Field(default=None, gt=0)

    @model_serializer(mode="wrap")
    def _leave_out_temperature(self, serialise: Callable[[Any], Any]) -> dict[str, Any]:
        """Write no temperature where there is none, as in older runs."""
        content: dict[str, Any] = serialise(self)
        if self.temperature is None:
            del content["temperature"]
        return content

    @property
    def takes_one_number(self) -> bool:
        """Whether an image has one number, which becomes two logits."""
        return self.name in ("probability", "value") or (
            self.columns == 1 and self.name in ("sigmoid", "sigmoid_probabilities")
        )

    @property
    def holds_probabilities(self) -> bool:
        """Whether the numbers are probabilities: behind the softmax or sigmoid of a network."""
        return self.name in _PROBABILITIES

    @property
    def is_softmax(self) -> bool:
        """Whether it is a softmax over classes, whatever the numbers of the network are."""
        return self.name not in ("sigmoid", "sigmoid_probabilities", "value")

    @property
    def decision(self) -> Decision:
        """How its logits become probabilities and predicted classes."""
        each = self.name in ("sigmoid", "sigmoid_probabilities") and not self.takes_one_number
        return EACH_CLASS if each else ONE_CLASS

    def convert_to_logits(self, raw: Tensor) -> Logits:
        """Return the logits of a network's numbers, unchecked, so that it can be traced.

        Args:
            raw: numbers of the network, `batch × columns`; further axes of length 1 are dropped.

        Returns:
            Logits, `batch × classes`.
        """
        raw = raw.float()
        raw = raw[:, None] if raw.ndim == 1 else raw.flatten(1)
        logits = _CONVERSIONS[self.name](raw, self)
        return logits if self.temperature is None else logits / self.temperature

    def find_values(self, logits: Logits) -> Float[Tensor, " batch"] | None:
        """Return the values of a regression, one per image; None for a classifier of classes."""
        if self.name != "value":
            return None
        low, high = self.value_range or (-LOGIT_RANGE / 2, LOGIT_RANGE / 2)
        scale = (high - low) / LOGIT_RANGE
        return (low + high) / 2 + scale * (logits[:, 1] - logits[:, 0])

    @property
    def class_count(self) -> int:
        """How many classes there are: one for each logit."""
        return 2 if self.takes_one_number else self.columns or 0

    def name_classes(self, names: ClassNames | None) -> ClassNames:
        """Return the names of the classes: those that are given, or numbered ones.

        Args:
            names: names of the card or of the source; None where there are none.

        Returns:
            Names; of one number, the class and the absence of it are named, and the targets of a
            regression are also called `lower` and `higher`.
        """
        if self.name == "value":
            words = ("lower", "higher")
            given = () if names is None else names.names
            if len(given) == 1:
                given = tuple(f"{word} {given[0]}" for word in words)
            return ClassNames.of(given or words, words)
        if names is not None and self.takes_one_number and len(names.names) == 1:
            pairs = ((f"not {n[0]}", n[0]) for n in (names.names, names.identifiers))
            return ClassNames(*pairs)
        if names is not None:
            return names
        if self.takes_one_number and self.name != "probability":
            return ClassNames.of(("not class", "class"))
        return ClassNames.make_numbered(
            self.class_count, "feature" if self.name == "features" else "class"
        )


SOFTMAX = Output()
"""One class of an image is true: what an older file means that says nothing."""


def suggest_word(word: object) -> str:
    """Return the end of a message that suggests the word that was meant; empty if none is near."""
    synonym = SYNONYMS.get(str(word).casefold())
    if synonym is not None:
        return f"; did you mean {synonym}?"
    return suggest_nearest(str(word), get_args(OutputName))


def describe_words(*names: OutputName) -> str:
    """Return some words of a card with their meanings, for a message; by default all of them."""
    chosen = names or get_args(OutputName)
    parts = [f"{name} ({MEANINGS[cast(OutputName, name)]})" for name in chosen]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def check_numbers(raw: Tensor, output: Output, count: int, spec: str) -> Tensor:
    """Check the shape and the range of a network's numbers.

    Args:
        raw: the numbers.
        output: what they mean.
        count: the number of images that were classified.
        spec: the classifier, for messages.

    Returns:
        The numbers, `batch × columns`.

    Raises:
        NotFiniteError: probabilities are NaN or infinite.
        ClassifierError: the shape is wrong, or probabilities are outside [0, 1] or do not sum to 1.
    """
    numbers = raw[:, None] if raw.ndim == 1 and len(raw) == count else raw
    if count == 1 and raw.ndim < 2:  # the axis of the batch was dropped
        numbers = raw.reshape(1, -1)
    if numbers.ndim > 2 and numbers.shape[1:].numel() == max(numbers.shape[1:]):
        numbers = numbers.flatten(1)
    columns = 1 if output.name in ("probability", "value") else output.columns
    wrong = numbers.ndim != 2 or len(numbers) != count
    if wrong or columns not in (None, numbers.shape[1]):
        advice = _advise_shape(numbers, columns, count)
        raise ClassifierError(
            f"classifier {spec}: expected {count} × {columns or 'classes'} numbers as its output "
            f"({output.name}), got {format_shape(raw.shape)}{advice}"
        )
    if numbers.shape[1] == 1 and output.name in ("logits", "probabilities"):
        raise ClassifierError(
            f"classifier {spec}: it gives one number per image, which cannot be {output.name} "
            f"(the softmax of one number is always 1); set output: {describe_words(*_ONE_NUMBER)}"
        )
    if output.holds_probabilities:
        check_finite_rows(f"classifier {spec}: its output", numbers.detach())
        _check_probabilities(numbers.detach().float(), output, spec)
    return numbers


def check_finite_rows(subject: str, *values: Tensor) -> None:
    """Check that the numbers of every image are finite.

    Args:
        subject: what the numbers are, for the error.
        *values: numbers whose first axis is the batch.

    Raises:
        NotFiniteError: some are NaN or infinite; it knows of which images.
    """
    if all(bool(each.isfinite().all()) for each in values):
        return
    wrong = torch.stack([~each.isfinite().flatten(1).all(1).cpu() for each in values]).any(0)
    raise NotFiniteError(subject, wrong.nonzero()[:, 0].tolist(), len(wrong))


def _check_probabilities(numbers: Tensor, output: Output, spec: str) -> None:
    low, high = (bound.item() for bound in numbers.aminmax())
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        one_number = numbers.shape[1] == 1
        words: tuple[OutputName, ...] = (
            ("sigmoid", "value") if one_number else ("logits", "sigmoid")
        )
        raise ClassifierError(
            f"classifier {spec}: expected probabilities in [0, 1], got [{low:.4g}, {high:.4g}]; "
            f"set output: {describe_words(*words)} in its card"
        )
    if output.name == "probabilities" and numbers.shape[1] > 1:
        sums = numbers.sum(1)
        if (sums - 1).abs().max() <= _LARGEST_MISS:
            return
        excess = find_excess(numbers)
        if excess.max() > _LARGEST_MISS:
            worst = sums[excess.argmax()].item()
            raise ClassifierError(
                f"classifier {spec}: expected probabilities that sum to 1, got a sum of "
                f"{worst:.4g}; set output: {describe_words('sigmoid_probabilities', 'sigmoid')} in "
                "its card"
            )


def find_excess(numbers: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Return by how much the sum of each image misses 1 beyond what rounding explains.

    Numbers that are all multiples of 0.01, say, may each be 0.005 too high or too low.

    Args:
        numbers: numbers in [0, 1].

    Returns:
        The rest of the difference from 1, one per image; 0 where rounding explains it.

    >>> find_excess(torch.tensor([[0.33, 0.33, 0.33], [0.5, 0.5, 0.25]]))
    tensor([0.0000, 0.2350])
    """
    miss = numbers.sum(1) - 1
    steps = [s for s in _STEPS if (numbers / s - (numbers / s).round()).abs().max() < 2e-3]
    if not steps:
        return miss.abs()
    rounded = torch.where(miss > 0, (numbers > 0).sum(1), numbers.shape[1])
    return (miss.abs() - (rounded * steps[0] / 2).clamp_max(_MOST_ROUNDED)).clamp_min(0)


def _advise_shape(numbers: Tensor, columns: int | None, count: int) -> str:
    if numbers.ndim == 4:
        return "; it gives a map per class, so wrap it in a module that averages each map"
    if numbers.ndim == 1 and columns is not None:
        return (
            "; it gives one row and not one for each image: let it return torch.stack of the rows"
        )
    if numbers.ndim == 2 and len(numbers) == count and columns == 1:
        return f"; set output: {describe_words(*_PER_CLASS)}"
    return ""


def _convert_logits(raw: Tensor, output: Output) -> Logits:
    return _split_logit(raw) if output.takes_one_number else raw


def _convert_probabilities(raw: Tensor, output: Output) -> Logits:
    return raw.clamp_min(SMALLEST_PROBABILITY).log()


def _convert_probability(raw: Tensor, output: Output) -> Logits:
    probability = clamp_probability(raw)
    return torch.cat((torch.log1p(-probability), probability.log()), dim=1)


def _convert_sigmoid_probabilities(raw: Tensor, output: Output) -> Logits:
    if output.takes_one_number:
        return _convert_probability(raw, output)
    return EACH_CLASS.restore_logits(raw)


def _convert_value(raw: Tensor, output: Output) -> Logits:
    low, high = output.value_range or (-LOGIT_RANGE / 2, LOGIT_RANGE / 2)
    return _split_logit((raw - (low + high) / 2) * (LOGIT_RANGE / (high - low)))


def _split_logit(logit: Tensor) -> Logits:
    """Return two logits whose difference is the one, so that both targets have gradients."""
    return torch.cat((-logit / 2, logit / 2), dim=1)


_CONVERSIONS: dict[OutputName, Callable[[Tensor, Output], Logits]] = {
    "logits": _convert_logits,
    "probabilities": _convert_probabilities,
    "probability": _convert_probability,
    "sigmoid": _convert_logits,
    "sigmoid_probabilities": _convert_sigmoid_probabilities,
    "value": _convert_value,
    "features": _convert_logits,
}
