"""Measure one explainer: thresholds on one half, rows on the other one or on all, costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TypeAlias

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ApercuError, ConfigError, ImagesError, first_line, format_shape
from apercu.evaluation.cost import MAX_SECONDS, measure_cost
from apercu.evaluation.results import FIXED_THRESHOLD, Cost, MetricRow, name_at_fixed_threshold
from apercu.evaluation.sample import EvalBatch, EvalSample, SampleRecord, has_ground_truth
from apercu.evaluation.scores import (
    ChosenThreshold,
    HalfScores,
    LevelledScores,
    MetricInputs,
    compute_metric,
)
from apercu.evaluation.settings import CompareSettings
from apercu.methods import CentreBlob, MapExplainer, TrueBox
from apercu.metrics import Metric
from apercu.metrics.registry import METRICS
from apercu.own_code import CODE_ERRORS
from apercu.progress import ProgressCallback
from apercu.statistics import bootstrap_interval
from apercu.types import Maps

ImageScores: TypeAlias = dict[tuple[str, str], dict[str, float]]
"""A value per image name, by row: explainer and metric."""


@dataclass(frozen=True)
class ExplainerScores:
    """What is measured of one explainer.

    Attributes:
        rows: one row per metric, and a second one at the fixed threshold.
        scores: the values of each image.
        curves: the mean probabilities of deletion and insertion, where they were needed.
        constant: how many of its maps are constant.
    """

    rows: list[MetricRow]
    scores: ImageScores
    curves: dict[str, tuple[float, ...]]
    constant: int


@dataclass(frozen=True)
class Evaluator:
    """A classifier and a sample of images; measures one explainer after another.

    Attributes:
        classifier: the classifier that is explained.
        sample: the images.
        metrics: the metrics by name.
        settings: the settings of the comparison.
        progress: is called with the images that are done.
    """

    classifier: Classifier
    sample: EvalSample
    metrics: Mapping[str, Metric]
    settings: CompareSettings
    progress: ProgressCallback

    @property
    def everywhere(self) -> bool:
        """Whether metrics without a threshold are reported on both halves, the others on one."""
        is_mixed = any(not metric.thresholded for metric in self.metrics.values())
        return bool(self.sample.tune) and is_mixed and self.settings.whole_maps == "all"

    @cached_property
    def backgrounds(self) -> EvalBatch | None:
        """The first two reported images with a mask; None where there is none."""
        records = self.sample.everything if self.everywhere else self.sample.test
        masked = [record for record in records if record.has_region][:2]
        return next(self.sample.read_batches(self.classifier, masked, 2), None) if masked else None

    def try_own_metrics(self) -> None:
        """Compute the metrics from outside the package on two images, before hours of work.

        Raises:
            ConfigError: a function fails, or does not give one number per image.
        """
        for name, metric in self.metrics.items():
            if name not in METRICS:
                self._try_metric(name, metric)

    def _try_metric(self, name: str, metric: Metric) -> None:
        """Raise ConfigError where a metric fails on two images, or gives other than scores."""
        records = [each for each in self.sample.everything if has_ground_truth(each, metric)][:2]
        count = len(records)
        (batch,) = self.sample.read_batches(self.classifier, records, count)
        method = CentreBlob()
        maps = method(self.classifier, batch.images, batch.targets)
        inputs = self._make_inputs(method, batch, maps)
        scores: object
        try:
            if metric.thresholded:
                scores = compute_metric(metric, inputs, [FIXED_THRESHOLD])
            else:
                scores = metric.function(*(getattr(inputs, each) for each in metric.takes))
        except CODE_ERRORS as error:
            raise ConfigError(
                f"metrics: {name} fails on {count} images: "
                f"{type(error).__name__} ({first_line(error)})"
            ) from error
        axes, shape = "images", [count]
        if metric.thresholded:
            axes, shape = "levels × images", [1, count]
        got = type(scores).__name__
        if isinstance(scores, Tensor):
            if list(scores.shape) == shape:
                return
            got = format_shape(scores.shape) if scores.ndim else "a single number"
        raise ConfigError(
            f"metrics: expected one number per image from {name}, {axes} {format_shape(shape)}, "
            f"got {got}"
        )

    def dry_run(self, name: str, explainer: MapExplainer | TrueBox) -> None:
        """Explain one image, so that an explainer that cannot work fails before hours of work.

        Raises:
            ImagesError: the true boxes are compared, and no image has any.
            ApercuError: the map holds NaN or infinity.
        """
        if isinstance(explainer, TrueBox):
            if not any(record.has_boxes for record in self.sample.test):
                raise ImagesError(
                    f"{self.sample.source.name}: {name} needs true boxes; leave it out, or add them"
                )
            return
        for batch in self.sample.read_batches(self.classifier, self.sample.test[:1], 1):
            self._compute_maps(name, explainer, batch)

    def evaluate(self, name: str, explainer: MapExplainer | TrueBox) -> ExplainerScores:
        """Measure one explainer, metrics of regions at thresholds that other images choose.

        The tune half chooses for the test half; with two folds, the test half also chooses for the
        tune half. Where there is no tune half, the test half chooses for itself. The other metrics
        are measured on all images, or on the test half.
        """
        selected = self._select_metrics(explainer)
        metrics = [metric for metric in selected if not self.metrics[metric].mean_of]
        halves = self._measure_halves(name, explainer, metrics)
        rows, scores = [], ImageScores()

        def add_row(row_name: str, metric: str, threshold: ChosenThreshold) -> None:
            parts = [(self.sample.test, halves.test.at(metric, threshold.value))]
            if metric in halves.in_both:
                on_tune = threshold.value if threshold.other is None else threshold.other
                parts.append((self.sample.tune, halves.tune.at(metric, on_tune)))
            scores[row_name, metric] = self._sort_scores(metric, explainer, parts)
            values = torch.tensor(list(scores[row_name, metric].values()), dtype=torch.float64)
            rows.append(self._make_row(row_name, metric, values, threshold))

        for metric in metrics:
            if metric not in halves.best:
                add_row(name, metric, ChosenThreshold(FIXED_THRESHOLD))
                continue
            add_row(name, metric, halves.describe_threshold(metric))
            if explainer.map_scale == "mask":
                at_fixed = ChosenThreshold(FIXED_THRESHOLD, "fixed")
                add_row(name_at_fixed_threshold(name), metric, at_fixed)
        rows += self._add_means([metric for metric in selected if metric not in metrics], scores)
        parts = (halves.test, halves.tune)
        curves = {
            kind: torch.cat([part.curves[kind] for part in parts if kind in part.curves])
            for kind in halves.test.curves
        }
        means = {kind: tuple(curve.mean(dim=0).tolist()) for kind, curve in curves.items()}
        constant = halves.test.constant + (halves.tune.constant if halves.in_both else 0)
        return ExplainerScores(rows, scores, means, constant)

    def _measure_halves(
        self, name: str, explainer: MapExplainer | TrueBox, metrics: Sequence[str]
    ) -> HalfScores:
        """Measure the tune half, which chooses thresholds, and then the test half."""
        settings, sample = self.settings, self.sample
        is_folded, in_hindsight = settings.thresholds_from == "folds", not sample.tune
        has_levels = explainer.map_scale in ("map", "mask")
        cut = [metric for metric in metrics if has_levels and self.metrics[metric].thresholded]
        in_both = [
            metric
            for metric in metrics
            if (is_folded if self.metrics[metric].thresholded else self.everywhere)
        ]
        fixed = (FIXED_THRESHOLD,)
        also_fixed = fixed if explainer.map_scale == "mask" else ()
        every_level = tuple(dict.fromkeys((*settings.thresholds, *also_fixed)))
        levels = dict.fromkeys(in_both, fixed) | dict.fromkeys(cut, every_level)
        tune = LevelledScores()
        if levels and sample.tune:
            tune = self._compute_scores(name, explainer, sample.tune, levels)
        best = {} if in_hindsight else self._choose_thresholds(cut, tune, "tune half")
        levels = dict.fromkeys(metrics, fixed) | dict.fromkeys(cut, every_level)
        if not is_folded:
            levels |= {metric: (one.value, *also_fixed) for metric, one in best.items()}
        test = self._compute_scores(name, explainer, sample.test, levels)
        opposite = self._choose_thresholds(cut, test, "test half") if is_folded else {}
        if in_hindsight:
            best = self._choose_thresholds(cut, test, "the same images, in hindsight")
        return HalfScores(tune, test, frozenset(in_both), best, opposite)

    def _add_means(self, metrics: Sequence[str], scores: ImageScores) -> list[MetricRow]:
        """Add the scores of metrics that are means of others, and return their rows."""
        rows = []
        for metric in metrics:
            first, *others = self.metrics[metric].mean_of
            for name in [name for name, part in scores if part == first]:
                parts = [scores[name, part] for part in (first, *others)]
                means = {image: fmean(part[image] for part in parts) for image in parts[0]}
                scores[name, metric] = means
                values = torch.tensor(list(means.values()), dtype=torch.float64)
                rows.append(self._make_row(name, metric, values, ChosenThreshold(FIXED_THRESHOLD)))
        return rows

    def _sort_scores(
        self,
        metric: str,
        explainer: MapExplainer | TrueBox,
        parts: Sequence[tuple[Sequence[SampleRecord], Tensor]],
    ) -> dict[str, float]:
        """Return the scores of the images whose truth is known by name, in the source's order."""
        pairs = [
            pair
            for records, values in parts
            for pair in zip(
                [r for r in records if has_ground_truth(r, self.metrics[metric], explainer)],
                values.double().tolist(),
                strict=True,
            )
        ]
        pairs.sort(key=lambda pair: pair[0].index)
        return {record.name: value for record, value in pairs}

    def measure_costs(self, name: str, explainer: MapExplainer | TrueBox) -> Iterator[Cost]:
        """Measure time, queries and memory at every batch size, smallest first.

        Boxes that need no computation are left out, and so is a batch that would take longer than
        `MAX_SECONDS`.
        """
        if isinstance(explainer, TrueBox) or (explainer.map_scale == "box" and not explainer.needs):
            return
        size = min(max(self.settings.cost_batches, default=0), len(self.sample.test))
        for batch in self.sample.read_batches(self.classifier, self.sample.test[:size], size):
            slowest, batch_sizes = 0.0, sorted(self.settings.cost_batches)
            for number, batch_size in enumerate(batch_sizes):
                self.progress(f"cost of {name}", number, len(batch_sizes))
                if slowest * batch_size > 1000 * MAX_SECONDS:
                    break
                index = torch.arange(batch_size, device=batch.images.device) % size
                inputs = batch.images[index], batch.targets[index]
                cost = measure_cost(name, explainer, self.classifier, inputs, self.settings.repeats)
                slowest = cost.ms_per_image
                yield cost
            self.progress(f"cost of {name}", len(batch_sizes), len(batch_sizes))

    def _make_row(
        self, name: str, metric: str, values: Tensor, threshold: ChosenThreshold
    ) -> MetricRow:
        return MetricRow(
            explainer=name,
            metric=metric,
            value=float(values.mean()),
            ci95=bootstrap_interval(values.numpy(), self.settings.seed),
            n=len(values),
            better=self.metrics[metric].better,
            threshold=threshold.value if threshold.origin else None,
            threshold_from=threshold.origin,
            other_threshold=threshold.other,
        )

    def _choose_thresholds(
        self, metrics: Sequence[str], scores: LevelledScores, images: str
    ) -> dict[str, ChosenThreshold]:
        """Return the best threshold of each metric for some images."""
        chosen = {}
        for metric in metrics:
            by_level = scores.by_metric[metric][: len(self.settings.thresholds)]
            means = by_level.double().mean(dim=1)
            is_lower = self.metrics[metric].better == "lower"
            level = int(means.argmin() if is_lower else means.argmax())
            origin = f"{images}, {by_level.shape[1]} images"
            chosen[metric] = ChosenThreshold(self.settings.thresholds[level], origin)
        return chosen

    def _compute_scores(
        self,
        name: str,
        explainer: MapExplainer | TrueBox,
        records: Sequence[SampleRecord],
        thresholds: Mapping[str, Sequence[float]],
    ) -> LevelledScores:
        """Compute every metric of some images at its thresholds."""
        parts: dict[str, list[Tensor]] = {metric: [] for metric in thresholds}
        curves: dict[str, list[Tensor]] = {}
        constant = 0
        done = 0 if records is self.sample.tune else len(self.sample.tune)
        self.progress(name, done, len(self.sample.tune) + len(self.sample.test))
        for batch in self.sample.read_batches(self.classifier, records, self.settings.batch):
            maps = self._compute_maps(name, explainer, batch)
            inputs = self._make_inputs(explainer, batch, maps)
            constant += int((inputs.maps.amax((1, 2)) == inputs.maps.amin((1, 2))).sum())
            for metric, levels in thresholds.items():
                scores = compute_metric(self.metrics[metric], inputs, levels)
                has_truth = [
                    has_ground_truth(record, self.metrics[metric], explainer)
                    for record in batch.records
                ]
                parts[metric].append(scores.cpu()[:, torch.tensor(has_truth)])
                self._check_finite(name, metric, scores, batch)
            for kind, curve in inputs.curves.items():
                curves.setdefault(kind, []).append(curve.probabilities.cpu())
            done += len(batch.records)
            self.progress(name, done, len(self.sample.tune) + len(self.sample.test))
        return LevelledScores(
            {metric: torch.cat(scores, dim=1) for metric, scores in parts.items()},
            {kind: torch.cat(part) for kind, part in curves.items()},
            constant,
            thresholds,
        )

    def _make_inputs(
        self, explainer: MapExplainer | TrueBox, batch: EvalBatch, maps: Maps
    ) -> MetricInputs:
        return MetricInputs(
            explainer=explainer,
            classifier=self.classifier,
            batch=batch,
            maps=maps,
            steps=self.settings.steps,
            seed=self.settings.seed,
            backgrounds=self.backgrounds,
            cells=self.settings.cells,
        )

    def _select_metrics(self, explainer: MapExplainer | TrueBox) -> list[str]:
        """Return the metrics of this explainer: true boxes cannot give further maps."""
        only_once = isinstance(explainer, TrueBox)
        return [
            name for name in self.metrics if not (only_once and self.metrics[name].explains_again)
        ]

    def _compute_maps(self, name: str, explainer: MapExplainer | TrueBox, batch: EvalBatch) -> Maps:
        """Return maps as the explainer gives them."""
        if isinstance(explainer, TrueBox):
            return explainer(batch.images, batch.true_boxes)
        maps = explainer(self.classifier, batch.images, batch.targets)
        height, width = batch.images.shape[2:]
        expected = (len(batch.images), height, width)
        if not isinstance(maps, Tensor) or maps.shape != expected or not maps.is_floating_point():
            given = f"{maps.dtype} {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps)
            raise ConfigError(
                f"{name}: expected float maps, batch × height × width {expected}, got {given}"
            )
        maps = maps.detach()
        self._check_finite(name, "maps", maps.flatten(1).T, batch)
        return maps

    def _check_finite(self, name: str, kind: str, values: Tensor, batch: EvalBatch) -> None:
        """Check what an explainer gave or scored, `anything × images`."""
        bad = (~values.isfinite()).any(dim=0)
        if bad.any():
            image = batch.records[int(bad.int().argmax())].name
            raise ApercuError(
                f"{name}: expected finite {kind}, got NaN or infinity for {image}; leave out "
                f"{name}, or that image"
            )
