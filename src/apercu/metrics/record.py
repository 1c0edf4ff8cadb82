"""The record of a metric: its function, what it takes, and how people read its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.errors import ConfigError
from apercu.own_code import check_arguments

Better: TypeAlias = Literal["lower", "higher"]
Truth: TypeAlias = Literal["none", "boxes", "region", "any"]
"""What must be known of an image: nothing, boxes, a mask, or one of the two."""

LevelScores: TypeAlias = Float[Tensor, "levels batch"]
"""One number per image at each of several thresholds."""
LevelBoxes: TypeAlias = Float[Tensor, "levels batch 4"]

MetricInput: TypeAlias = Literal[
    "maps",
    "regions",
    "normalised_regions",
    "boxes",
    "objects",
    "true_boxes",
    "true_regions",
    "classifier",
    "images",
    "targets",
    "sizes",
    "seed",
    "explain_again",
    "maps_elsewhere",
    "deletion",
    "insertion",
    "single_step_deletion",
    "single_step_insertion",
]
"""What a metric can be given:

- `maps`: one map per image, as the explainer gives it;
- `regions`, `boxes`: the pixels above each threshold and the tight boxes around them, levels first;
- `normalised_regions`: the pixels above each threshold of maps that are stretched to [0, 1], masks
  included;
- `objects`: the true pixels, from the mask or else from the boxes; `true_boxes` and `true_regions`:
  only the boxes, only the mask;
- `classifier`, `images`, `targets`, and a `seed` for random draws;
- `sizes`: height and width of the stored pictures, before they were brought to the classifier's
  size;
- `explain_again`: a function of classifier, images and targets that gives further maps;
- `maps_elsewhere`: the maps of the same objects on other backgrounds;
- `deletion`, `insertion`: the classifier's probabilities while pixels are flipped, and the same
  with each step on its own.
"""

_CURVES = {"deletion", "insertion", "single_step_deletion", "single_step_insertion"}
_TRUTHS: dict[MetricInput, Truth] = {
    "objects": "any",
    "true_boxes": "boxes",
    "true_regions": "region",
}


@dataclass(frozen=True, kw_only=True)
class MetricRecord:
    """What is known of a metric besides its function: what it needs, and how people read it.

    Attributes:
        name: the name that people type and that results store.
        takes: the inputs of the function.
        better: the direction of better values.
        title: the heading of its column.
        phrase: the name inside a sentence.
        meaning: what it measures, in one line.
        percent: whether a value of 1 is shown as 100 %.
        decimals: the digits after the decimal point.

    Raises:
        ConfigError: one of them is missing, or is no word that is known.
    """

    name: str
    takes: tuple[MetricInput, ...]
    better: Better
    title: str
    phrase: str
    meaning: str
    percent: bool = False
    decimals: int = 3

    def __post_init__(self) -> None:
        label = f"metric {self.name}"
        if not (isinstance(self.name, str) and self.name.isidentifier()):
            raise ConfigError(
                f"metric: expected a name of letters, digits and _, got {self.name!r}"
            )
        if self.better not in get_args(Better):
            raise ConfigError(f"{label}: expected better lower or higher, got {self.better!r}")
        inputs = get_args(MetricInput)
        if not (isinstance(self.takes, tuple) and self.takes and set(self.takes) <= set(inputs)):
            raise ConfigError(
                f"{label}: expected takes to be a tuple of some of {', '.join(inputs)}, "
                f"got {self.takes!r}"
            )
        for part in ("title", "phrase", "meaning"):
            if not (isinstance(getattr(self, part), str) and getattr(self, part).strip()):
                raise ConfigError(
                    f"{label}: expected a text as {part}, got {getattr(self, part)!r}"
                )
        if not (isinstance(self.decimals, int) and 0 <= self.decimals <= 9):
            raise ConfigError(f"{label}: expected decimals from 0 to 9, got {self.decimals!r}")

    @property
    def truth(self) -> Truth:
        """What must be known of an image."""
        return next((truth for name, truth in _TRUTHS.items() if name in self.takes), "none")

    @property
    def thresholded(self) -> bool:
        """Whether it scores the region above a threshold, which is chosen on other images."""
        return not {"regions", "normalised_regions", "boxes"}.isdisjoint(self.takes)

    @property
    def flips(self) -> bool:
        """Whether it is read off curves of deletion or insertion, whose steps are a setting."""
        return not _CURVES.isdisjoint(self.takes)

    @property
    def explains_again(self) -> bool:
        """Whether it needs further maps from the explainer."""
        return not {"explain_again", "maps_elsewhere"}.isdisjoint(self.takes)

    def format_value(self, value: float) -> str:
        """Return a value as people read it.

        >>> MetricRecord(
        ...     name="hits", takes=("maps",), better="higher", title="Hits", phrase="hits",
        ...     meaning="how often", percent=True, decimals=1,
        ... ).format_value(0.344)
        '34.4\\xa0%'
        """
        scale, unit = (100, "\u00a0%") if self.percent else (1, "")
        return f"{value * scale:.{self.decimals}f}{unit}".replace("-", "−")


@dataclass(frozen=True, kw_only=True)
class Metric(MetricRecord):
    """One metric: its record and its function.

    Attributes:
        function: a pure function of `takes`, in their order, to one score per image. A metric of
            `regions` or `boxes` gives `levels × batch`.
        by_name_only: whether it is too slow to be measured unless it is named.
        mean_of: names of metrics of the package. A comparison measures these in its place, each at
            its own threshold, and gives their mean for each image.

    Raises:
        ConfigError: the function does not take so many inputs, or the record is wrong.
    """

    function: Callable[..., Any]
    by_name_only: bool = False
    mean_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise ConfigError(
                f"metric {self.name}: expected a function, got {type(self.function).__name__}"
            )
        check_arguments(self.function, self.takes, f"metric {self.name}")

    @property
    def record(self) -> MetricRecord:
        """The record without the function, as results keep it."""
        return MetricRecord(
            **{each.name: getattr(self, each.name) for each in fields(MetricRecord)}
        )


def make_metric(
    *,
    better: Better,
    meaning: str,
    title: str | None = None,
    percent: bool = False,
    decimals: int = 3,
    by_name_only: bool = False,
) -> Callable[[Callable[..., Any]], Metric]:
    """Return a decorator that makes a metric of a function; its parameters name what it takes.

    >>> @make_metric(better="lower", meaning="pixels whose evidence is above 0.5", percent=True)
    ... def above_half(maps):
    ...     return (maps > 0.5).float().mean(dim=(1, 2))
    >>> above_half.name, above_half.title, above_half.takes
    ('above_half', 'Above half', ('maps',))

    Args:
        better: the direction of better values.
        meaning: what it measures, in one line.
        title: the heading of its column; None for the name of the function.
        percent: whether a value of 1 is shown as 100 %.
        decimals: the digits after the decimal point.
        by_name_only: whether it is too slow to be measured unless it is named.

    Returns:
        The decorator.

    Raises:
        ConfigError: a word is wrong, or a parameter is no input of metrics.
    """

    def decorate(function: Callable[..., Any]) -> Metric:
        words = function.__name__.replace("_", " ").strip()
        heading = title or words.capitalize()
        takes = cast(
            tuple[MetricInput, ...],
            tuple(
                name
                for name, each in signature(function).parameters.items()
                if each.default is each.empty
            ),
        )
        return Metric(
            name=function.__name__,
            function=function,
            takes=takes,
            better=better,
            title=heading,
            phrase=f"{heading[:1].lower()}{heading[1:]}",
            meaning=meaning,
            percent=percent,
            decimals=decimals,
            by_name_only=by_name_only,
        )

    return decorate


def make_levelwise(function: Callable[..., Tensor]) -> Callable[..., LevelScores]:
    """Return a metric of several levels: the function is applied to each level of its first input.

    Args:
        function: a metric of the regions or boxes at one threshold.

    Returns:
        The metric of `levels × batch × …`, which gives `levels × batch`.
    """

    def score_levels(levels: Tensor, *others: Tensor) -> LevelScores:
        return torch.stack([function(level, *others) for level in levels])

    return score_levels
