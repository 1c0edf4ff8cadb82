"""Where one explainer is measured: thresholds on the tune half, rows on the test half."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ApercuError, ImagesError
from apercu.evaluation.cost import MAX_SECONDS, measure_cost
from apercu.evaluation.measures import MEASURES
from apercu.evaluation.results import FIXED_THRESHOLD, Cost, MetricRow, fixed_threshold_name
from apercu.evaluation.sample import EvalBatch, EvalSample, SampleRecord
from apercu.evaluation.scores import MetricInputs, compute_metric
from apercu.evaluation.settings import CompareSettings
from apercu.methods import Explainer, TrueBox
from apercu.statistics import bootstrap_interval
from apercu.types import Maps

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the explainer's name, images done, images in all."""


def ignore_progress(explainer: str, done: int, total: int) -> None:
    """No progress is shown."""


ImageScores: TypeAlias = dict[tuple[str, str], dict[str, float]]
"""By row (explainer, metric) and image."""


class ExplainerScores(NamedTuple):
    """What was found out about one explainer on the test half."""

    rows: list[MetricRow]
    scores: ImageScores
    curves: dict[str, tuple[float, ...]]
    """Mean probabilities of deletion and insertion, where they were measured."""


@dataclass(frozen=True)
class Evaluator:
    """A classifier and a sample of images, ready to measure one explainer after another."""

    classifier: Classifier
    sample: EvalSample
    metrics: tuple[str, ...]
    settings: CompareSettings
    progress: Progress

    @cached_property
    def backgrounds(self) -> EvalBatch | None:
        """The first two reported images with a mask; None where there is none."""
        masked = [entry for entry in self.sample.test if entry.has_region][:2]
        return next(self.sample.read_batches(self.classifier, masked, 2), None) if masked else None

    def dry_run(self, name: str, explainer: Explainer | TrueBox) -> None:
        """Explain one image, so that what cannot work is said before hours of work."""
        if isinstance(explainer, TrueBox):
            if not any(entry.has_boxes for entry in self.sample.test):
                raise ImagesError(
                    f"{self.sample.source.name}: {name} needs true boxes; leave it out, or add them"
                )
            return
        for trial in self.sample.read_batches(self.classifier, self.sample.test[:1], 1):
            self._compute_maps(name, explainer, trial)

    def evaluate(self, name: str, explainer: Explainer | TrueBox) -> ExplainerScores:
        """The rows of one explainer, and the scores and curves behind them."""
        levels: dict[str, tuple[float, ...]] = dict.fromkeys(
            self._select_metrics(explainer), (FIXED_THRESHOLD,)
        )
        origins: dict[str, tuple[str | None, ...]] = dict.fromkeys(levels, (None,))
        if explainer.map_scale in ("map", "mask"):
            fixed = explainer.map_scale == "mask"
            for metric, (best, count) in self._choose_thresholds(name, explainer).items():
                levels[metric] = (best, FIXED_THRESHOLD) if fixed else (best,)
                origins[metric] = (f"tune half, {count} images", "fixed")
        rows, scores = [], ImageScores()
        measured, curves = self._compute_scores(name, explainer, self.sample.test, levels)
        for metric, found in measured.items():
            images = [e.name for e in self.sample.test if has_ground_truth(e, metric, explainer)]
            for place, values in enumerate(found.double()):
                row_name, origin = (
                    (fixed_threshold_name(name) if place else name),
                    origins[metric][place],
                )
                scores[row_name, metric] = dict(zip(images, values.tolist(), strict=True))
                rows.append(
                    MetricRow(
                        explainer=row_name,
                        metric=metric,
                        value=float(values.mean()),
                        ci95=bootstrap_interval(values.numpy(), self.settings.seed),
                        n=len(values),
                        better=MEASURES[metric].better,
                        threshold=levels[metric][place] if origin else None,
                        threshold_from=origin,
                    )
                )
        return ExplainerScores(rows, scores, curves)

    def measure_costs(self, name: str, explainer: Explainer | TrueBox) -> Iterator[Cost]:
        """Time, queries and memory at every batch size, smallest first.

        Boxes that look at nothing cost nothing and are left out, and so is a batch that would take
        longer than our patience.
        """
        if isinstance(explainer, TrueBox) or (explainer.map_scale == "box" and not explainer.needs):
            return
        size = min(max(self.settings.cost_batches, default=0), len(self.sample.test))
        for trial in self.sample.read_batches(self.classifier, self.sample.test[:size], size):
            slowest, batches = 0.0, sorted(self.settings.cost_batches)
            for place, wanted in enumerate(batches):
                self.progress(f"cost of {name}", place, len(batches))
                if slowest * wanted > 1000 * MAX_SECONDS:
                    break
                index = torch.arange(wanted, device=trial.images.device) % size
                inputs = trial.images[index], trial.targets[index]
                found = measure_cost(
                    name, explainer, self.classifier, inputs, self.settings.repeats
                )
                slowest = found.ms_per_image
                yield found
            self.progress(f"cost of {name}", len(batches), len(batches))

    def _choose_thresholds(
        self, name: str, explainer: Explainer | TrueBox
    ) -> dict[str, tuple[float, int]]:
        """The best threshold of each metric on the tune half, and on how many images."""
        cut = [metric for metric in self.metrics if MEASURES[metric].cut]
        if not cut:
            return {}
        grid = dict.fromkeys(cut, self.settings.thresholds)
        best = {}
        tuned, _ = self._compute_scores(name, explainer, self.sample.tune, grid)
        for metric, found in tuned.items():
            means = found.double().mean(dim=1)
            place = means.argmin() if MEASURES[metric].better == "lower" else means.argmax()
            best[metric] = (self.settings.thresholds[int(place)], found.shape[1])
        return best

    def _compute_scores(
        self,
        name: str,
        explainer: Explainer | TrueBox,
        records: Sequence[SampleRecord],
        levels: Mapping[str, Sequence[float]],
    ) -> tuple[dict[str, Tensor], dict[str, tuple[float, ...]]]:
        """Scores (levels × images) by metric, of the images that it can judge; and mean curves."""
        parts: dict[str, list[Tensor]] = {metric: [] for metric in levels}
        curves: dict[str, list[Tensor]] = {}
        done = 0 if records is self.sample.tune else len(self.sample.tune)
        for trial in self.sample.read_batches(self.classifier, records, self.settings.batch):
            maps = self._compute_maps(name, explainer, trial)
            shown = MetricInputs(
                *(explainer, self.classifier, trial, maps),
                steps=self.settings.steps,
                seed=self.settings.seed,
                backgrounds=self.backgrounds,
            )
            for metric, thresholds in levels.items():
                found = compute_metric(metric, shown, thresholds)
                judged = torch.tensor(
                    [has_ground_truth(entry, metric, explainer) for entry in trial.records]
                )
                parts[metric].append(found.cpu()[:, judged])
                self._check_finite(f"{name}: expected finite {metric}", found, trial)
            for kind, curve in shown.curves.items():
                curves.setdefault(kind, []).append(curve.probabilities.cpu())
            done += len(trial.records)
            self.progress(name, done, len(self.sample.tune) + len(self.sample.test))
        means = {kind: torch.cat(found).mean(dim=0).tolist() for kind, found in curves.items()}
        return (
            {metric: torch.cat(found, dim=1) for metric, found in parts.items()},
            {kind: tuple(points) for kind, points in means.items()},
        )

    def _select_metrics(self, explainer: Explainer | TrueBox) -> list[str]:
        """The metrics that this explainer can have: a true box cannot be asked again."""
        told_truth = isinstance(explainer, TrueBox)
        return [metric for metric in self.metrics if not (told_truth and MEASURES[metric].again)]

    def _compute_maps(self, name: str, explainer: Explainer | TrueBox, batch: EvalBatch) -> Maps:
        """Maps as the explainer gives them."""
        if isinstance(explainer, TrueBox):
            return explainer(batch.images, batch.true_boxes)
        maps = explainer(self.classifier, batch.images, batch.targets).detach()
        self._check_finite(f"{name}: expected finite maps", maps.flatten(1).T, batch)
        return maps

    def _check_finite(self, expected: str, values: Tensor, batch: EvalBatch) -> None:
        """Values are anything × images."""
        bad = (~values.isfinite()).any(dim=0)
        if bad.any():
            image = batch.records[int(bad.int().argmax())].name
            raise ApercuError(f"{expected}, got NaN or infinity for {image}; leave one of them out")


def has_ground_truth(record: SampleRecord, metric: str, explainer: object = None) -> bool:
    """Whether an image knows the truth that a metric (or the true box) needs."""
    if isinstance(explainer, TrueBox) and not record.has_boxes:
        return False
    known = {
        "none": True,
        "boxes": record.has_boxes,
        "region": record.has_region,
        "any": record.has_boxes or record.has_region,
    }
    return known[MEASURES[metric].truth]
