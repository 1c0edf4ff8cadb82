"""The record of a metric: its function, what it takes, and how people read its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Better: TypeAlias = Literal["lower", "higher"]
Truth: TypeAlias = Literal["none", "boxes", "region", "any"]
"""What must be known of an image: nothing, boxes, a mask, or one of the two."""

LevelScores: TypeAlias = Float[Tensor, "levels batch"]
"""One number per image at each of several thresholds."""
LevelBoxes: TypeAlias = Float[Tensor, "levels batch 4"]

MetricInput: TypeAlias = Literal[
    "maps",
    "regions",
    "boxes",
    "objects",
    "true_boxes",
    "true_regions",
    "classifier",
    "images",
    "targets",
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
- `objects`: the true pixels, from the mask or else from the boxes; `true_boxes` and `true_regions`:
  only the boxes, only the mask;
- `classifier`, `images`, `targets`, and a `seed` for random draws;
- `explain_again`: a function of classifier, images and targets that gives further maps;
- `maps_elsewhere`: the maps of the same objects on other backgrounds;
- `deletion`, `insertion`: the classifier's probabilities while pixels are flipped, and the same
  with each step on its own.
"""

_TRUTHS: dict[MetricInput, Truth] = {
    "objects": "any",
    "true_boxes": "boxes",
    "true_regions": "region",
}


@dataclass(frozen=True)
class Metric:
    """One metric: its function, what the function takes, and how its values are shown.

    Attributes:
        name: the name that people type and that results store.
        function: a pure function of `takes`, in their order, to one score per image. A metric of
            `regions` or `boxes` gives `levels × batch`.
        takes: the inputs of the function.
        better: the direction of better values.
        title: the heading of its column.
        phrase: the name inside a sentence.
        meaning: what it measures, in one line.
        percent: whether a value of 1 is shown as 100 %.
        decimals: the digits after the decimal point.
        by_name_only: whether it is too slow to be measured unless it is named.
    """

    name: str
    function: Callable[..., Any]
    takes: tuple[MetricInput, ...]
    better: Better
    title: str
    phrase: str
    meaning: str
    percent: bool = False
    decimals: int = 3
    by_name_only: bool = False

    @property
    def truth(self) -> Truth:
        """What must be known of an image."""
        return next((truth for name, truth in _TRUTHS.items() if name in self.takes), "none")

    @property
    def thresholded(self) -> bool:
        """Whether it scores the region above a threshold, which is chosen on other images."""
        return not {"regions", "boxes"}.isdisjoint(self.takes)

    @property
    def explains_again(self) -> bool:
        """Whether it needs further maps from the explainer."""
        return not {"explain_again", "maps_elsewhere"}.isdisjoint(self.takes)

    def format_value(self, value: float) -> str:
        """Return a value as people read it.

        >>> metric = Metric("hits", len, (), "higher", "Hits", "hits", "hits", True, decimals=1)
        >>> metric.format_value(0.344)
        '34.4\\xa0%'
        """
        scale, unit = (100, "\u00a0%") if self.percent else (1, "")
        return f"{value * scale:.{self.decimals}f}{unit}".replace("-", "−")


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
