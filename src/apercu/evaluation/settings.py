"""The settings of a comparison."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from apercu.errors import ConfigError
from apercu.evaluation.protocols import get_protocol
from apercu.log import warn
from apercu.metrics import Metric
from apercu.metrics.registry import check_own, get

WholeMaps: TypeAlias = Literal["all", "half"]
"""The images of the metrics that score a map as a whole, without a threshold."""
ThresholdsFrom: TypeAlias = Literal["half", "folds", "same"]
"""The images that choose thresholds."""
TargetsFrom: TypeAlias = Literal["labels", "predicted"]
"""Where the classes that are explained come from."""
MANY_PASSES = 1000
"""Predictions of one image for one curve from which a comparison warns."""


@dataclass(frozen=True)
class CompareSettings:
    """Typed settings, checked when they are made.

    Attributes:
        metrics: the metrics by name, or own ones; None for all that classifier and images allow.
        limit: the number of images, drawn at random; None for all.
        seed: the seed of every draw.
        batch: the number of images that are explained at a time.
        thresholds: the thresholds in (0, 1) from which the best one is chosen.
        steps: the number of steps of deletion and insertion.
        repeats: the number of calls whose median is the cost, at most.
        cost_batches: the batch sizes at which costs are measured.
        whole_maps: the images of the metrics that need no threshold, where others need one: `all`,
            or the `half` that these are reported on.
        cost: whether costs are measured; a later call may add them.
        thresholds_from: the images that choose thresholds of metrics of regions. `half`: one half
            of the images, and the other half is reported. `folds`: each half chooses those of the
            other one, and all images are reported. `same`: the images that are reported, in
            hindsight, as some published protocols do.
        targets: the classes that are explained: the `labels`, where the images have any, or those
            that the classifier `predicted`.
        cells: deletion and insertion flip whole cells of a grid of so many per side, one per step;
            None for pixels.
        protocol: the name of the published protocol that the metrics are those of; None for none.

    Raises:
        ConfigError: a metric or a protocol is unknown, a number is out of range, or the metrics are
            not those of the protocol.
    """

    metrics: tuple[str | Metric, ...] | None = None
    limit: int | None = None
    seed: int = 0
    batch: int = 16
    thresholds: tuple[float, ...] = tuple(round(0.05 * step, 2) for step in range(1, 20))
    steps: int = 196
    repeats: int = 5
    cost_batches: tuple[int, ...] = (1, 32)
    whole_maps: WholeMaps = "all"
    cost: bool = True
    thresholds_from: ThresholdsFrom = "half"
    targets: TargetsFrom = "labels"
    cells: int | None = None
    protocol: str | None = None

    def __post_init__(self) -> None:
        self._check_metrics()
        self._check_words()
        self._check_numbers()

    @property
    def resolved_metrics(self) -> tuple[Metric, ...] | None:
        """The named metrics and what they are means of; None for all that are possible."""
        if self.metrics is None:
            return None
        named = [
            get(each) if isinstance(each, str) else check_own(each, "metrics")
            for each in self.metrics
        ]
        parts = [get(part) for metric in named for part in metric.mean_of]
        return (*named, *(part for part in dict.fromkeys(parts) if part not in named))

    @property
    def records(self) -> tuple[Metric, ...] | None:
        """The former name of `resolved_metrics`."""
        return self.resolved_metrics

    def _check_metrics(self) -> None:
        """Raise ConfigError for metrics that are none, unknown, two of a name, or not allowed."""
        if self.protocol is not None:
            metrics = get_protocol(self.protocol).metrics
            if self.metrics != metrics:
                raise ConfigError(
                    f"metrics: the protocol {self.protocol} sets them ({', '.join(metrics)}); "
                    "leave one of the two out"
                )
        if self.metrics == ():
            raise ConfigError("metrics: expected at least one, got none")
        by_name: dict[str, Metric] = {}
        for metric in self.resolved_metrics or ():
            if by_name.setdefault(metric.name, metric) is not metric:
                raise ConfigError(f"metrics: two are called {metric.name}; rename one of them")

    def _check_words(self) -> None:
        """Raise ConfigError for a word that is none of those that are allowed."""
        allowed = {
            "whole_maps": WholeMaps,
            "thresholds_from": ThresholdsFrom,
            "targets": TargetsFrom,
        }
        for name, choices in allowed.items():
            if getattr(self, name) not in get_args(choices):
                expected = " or ".join(get_args(choices))
                raise ConfigError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    def _check_numbers(self) -> None:
        """Raise ConfigError for a number that is out of range."""
        if self.cells is not None and self.cells < 2:
            raise ConfigError(f"cells: expected at least 2 per side, got {self.cells}")
        if self.limit is not None and self.limit < 2:
            raise ConfigError(
                f"limit: expected at least 2 images (half choose thresholds), got {self.limit}"
            )
        if not self.thresholds or not all(0 < value < 1 for value in self.thresholds):
            raise ConfigError(f"thresholds: expected values in (0, 1), got {self.thresholds}")
        if self.steps < 2:
            raise ConfigError(f"steps: expected at least 2, got {self.steps}")
        if min(self.batch, self.repeats, *self.cost_batches) < 1:
            raise ConfigError(
                "batch, repeats, cost_batches: expected at least 1, "
                f"got {self.batch}, {self.repeats}, {self.cost_batches}"
            )

    def check_effects(self, given: Collection[str]) -> None:
        """Refuse options that were given and change nothing.

        Args:
            given: the names of the settings that somebody chose.

        Raises:
            ConfigError: none of the metrics depends on one of them.
        """
        metrics = self.resolved_metrics
        if "steps" in given and self.cells is not None:
            raise ConfigError(
                f"steps: {self.cells} × {self.cells} cells are flipped, one per step, so "
                "steps have no effect; leave it out"
            )
        if metrics is None:
            return
        is_cut = any(metric.thresholded for metric in metrics)
        is_mixed = is_cut and not all(metric.thresholded for metric in metrics)
        flips = any(metric.flips for metric in metrics)
        has_effect = {"cells": flips, "thresholds_from": is_cut}
        if self.protocol is not None:  # without one, version 0.1.0 took them
            has_effect |= {"steps": flips, "whole_maps": is_mixed or self.whole_maps == "all"}
        for name in given:
            if not has_effect.get(name, True):
                whose = "the metrics" if self.protocol is None else f"the protocol {self.protocol}"
                raise ConfigError(f"{name}: nothing in {whose} depends on it; leave it out")

    def check_flipping(self, metrics: Iterable[Metric], size: tuple[int, int]) -> None:
        """Refuse more cells than pixels, and warn if a curve takes very many predictions.

        Args:
            metrics: the metrics that are measured.
            size: height and width of the images.

        Raises:
            ConfigError: there are more cells per side than pixels.
        """
        if not any(metric.flips for metric in metrics):
            return
        height, width = size
        if self.cells is not None and self.cells > min(size):
            raise ConfigError(
                f"cells: expected at most one per pixel of {height} × {width}, got {self.cells}"
            )
        steps = min(self.steps, height * width) if self.cells is None else self.cells**2
        if steps + 1 > MANY_PASSES:
            option = f"{steps:,} steps" if self.cells is None else f"{self.cells} cells per side"
            warn(
                f"{option}: each curve takes {steps + 1:,} predictions of every image; 196 steps "
                "or 14 cells are usual"
            )
