"""How well methods recognise unknown images, and whether their probabilities may be believed.

Known images are split: a method is fitted to some, others choose the threshold that a stated
fraction of them exceeds, and the rest are measured. Fitted scorers and scores are kept in a folder,
so that a method or a set of images can be added later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.calibration import measure_reliability
from apercu.errors import ConfigError, ImagesError, RunError, TargetError, describe_interrupt
from apercu.evaluation.cost import describe_environment
from apercu.images import ImageSource, batches
from apercu.io import write_file, write_json
from apercu.metrics.pointing import true_regions
from apercu.progress import ProgressCallback, show_in_notebook
from apercu.robustness.unknown.base import (
    FEWEST_IMAGES,
    AnomalyMapScorer,
    KnownImages,
    UnknownMethod,
    UnknownScorer,
)
from apercu.robustness.unknown.curves import CurveValues, compute_curves, resample_curves
from apercu.robustness.unknown.registry import load_scorer, save_scorer
from apercu.robustness.unknown.results import KNOWN, METRICS, UnknownRow, UnknownRows
from apercu.run_record import lock_folder
from apercu.statistics import bootstrap_interval, wilson_interval
from apercu.types import Images, Regions, Scores, Targets

RESULTS, SCORERS, SCORES = "results.json", "scorers", "scores"
FALSE_ALARMS = 0.05
"""Fraction of known images that may be taken for unknown ones."""
FEWEST_TESTED = 10
"""Smallest number of known images to choose a threshold from, and to measure with."""


@dataclass(frozen=True, eq=False)
class ReadImages:
    """All images of one set in memory.

    Args:
        images: images at the classifier's size, `images × channels × height × width`.
        labels: true classes; None where they are not known.
        regions: what is marked in each image, `images × height × width`; None where nothing is.
    """

    images: Images
    labels: Targets | None
    regions: Regions | None

    @property
    def digest(self) -> str:
        """A text that is the same for the same images and labels."""
        sha = hashlib.sha256(self.images.contiguous().numpy().tobytes())
        for tensor in (self.labels, self.regions):
            sha.update(b"" if tensor is None else tensor.contiguous().numpy().tobytes())
        return sha.hexdigest()[:20]

    def choose(self, rows: Sequence[int]) -> ReadImages:
        """Return some of the images."""
        index = torch.tensor(list(rows), dtype=torch.long)
        labels = None if self.labels is None else self.labels[index]
        regions = None if self.regions is None else self.regions[index]
        return ReadImages(self.images[index], labels, regions)


def measure_unknown(
    classifier: Classifier,
    known: ImageSource,
    unknown: Mapping[str, ImageSource],
    methods: Mapping[str, UnknownMethod],
    out: Path,
    *,
    fit: ImageSource | None = None,
    false_alarms: float = FALSE_ALARMS,
    limit: int | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    command: str = "",
) -> UnknownRows:
    """Fit methods to honest images, and measure how well they recognise unknown ones.

    Without `fit`, one half of the known images is fitted to, a quarter chooses thresholds, and a
    quarter is measured; with it, one half chooses thresholds and the other is measured.

    Args:
        classifier: the classifier whose answers are to be believed or not.
        known: honest images, labelled where methods or metrics need labels.
        unknown: images of other kinds, by name.
        methods: methods by name.
        out: folder of the results; scorers and scores that are there are not computed again.
        fit: other honest images to fit the methods to.
        false_alarms: fraction of known images that may be taken for unknown ones.
        limit: largest number of images of each set.
        seed: seed of the split and of the intervals.
        progress: receives a title, the number of finished images, and that of all; None shows it
            in notebooks only.
        command: command line that the results name.

    Returns:
        The rows of the results.

    Raises:
        ConfigError: there is no method or no unknown set, or the false-alarm rate is no fraction.
        ImagesError: there are too few images, or labels are missing.
        ClassifierError: the classifier does not give what a method needs.
        RunError: another process works in the folder.
        OutputError: the folder cannot be written.
    """
    classifier.require_classes()
    _check_request(known if fit is None else fit, unknown, methods, false_alarms)
    kept = describe_interrupt(f"{out} keeps what is finished; the same call goes on")
    with kept, lock_folder(out), show_in_notebook(progress) as report:
        honest = read_images(classifier, known, limit, seed, report, needs_classes=True)
        order = torch.randperm(
            len(honest.images), generator=torch.Generator().manual_seed(seed)
        ).tolist()
        fitted_count = 0 if fit is not None else len(order) // 2
        rest = order[fitted_count:]
        to_fit = honest.choose(sorted(order[:fitted_count]))
        if fit is not None:
            to_fit = read_images(classifier, fit, limit, seed, report, needs_classes=True)
        to_choose = honest.choose(sorted(rest[: len(rest) // 2]))
        to_test = honest.choose(sorted(rest[len(rest) // 2 :]))
        if len(to_choose.images) < FEWEST_TESTED or len(to_fit.images) < FEWEST_IMAGES:
            least = 2 * FEWEST_TESTED if fit is not None else 2 * max(FEWEST_IMAGES, FEWEST_TESTED)
            raise ImagesError(f"{known.name}: expected at least {least} images, got {len(order)}")
        others = {
            name: read_images(classifier, source, limit, seed, report)
            for name, source in unknown.items()
        }
        rows = UnknownRows()
        for name, method in methods.items():
            measured = _Measurement(classifier, name, method, out, report)
            scorer = measured.fit(KnownImages(classifier, to_fit.images, to_fit.labels))
            rows += measured.measure(scorer, to_choose, to_test, others, false_alarms, seed)
            content: dict[str, Any] = {
                "classifier": classifier.spec,
                "fingerprint": classifier.fingerprint,
                "images": known.name,
                "fitted_to": len(to_fit.images),
                "unknown": {key: source.name for key, source in unknown.items()},
                "false_alarms": false_alarms,
                "limit": limit,
                "command": command,
                "rows": [row._asdict() for row in rows],
                "environment": describe_environment(seed, classifier.device),
            }
            write_json(out / RESULTS, content)
        return rows


@dataclass(frozen=True, eq=False)
class _Measurement:
    """One method in the folder of results."""

    classifier: Classifier
    name: str
    method: UnknownMethod
    out: Path
    report: ProgressCallback

    def fit(self, known: KnownImages) -> UnknownScorer:
        """Fit the method, or load the scorer that is kept."""
        data = ReadImages(known.images, known.labels, None)
        folder = self.out / SCORERS / self._digest(data)
        try:
            return load_scorer(folder, self.classifier)
        except RunError:
            scorer = self.method.fit(known, self._report_fit)
            save_scorer(scorer, folder)
            return scorer

    def measure(
        self,
        scorer: UnknownScorer,
        to_choose: ReadImages,
        to_test: ReadImages,
        others: Mapping[str, ReadImages],
        false_alarms: float,
        seed: int,
    ) -> list[UnknownRow]:
        """Return all rows of the method."""
        chosen, _ = self._score(scorer, to_choose)
        known, probabilities = self._score(scorer, to_test)
        threshold = float(np.quantile(chosen, 1 - false_alarms))
        rows = [self._count("false_alarms", KNOWN, known > threshold)]
        rows += self._measure_probabilities(probabilities, to_test.labels, seed)
        for name, other in others.items():
            unknown, _ = self._score(scorer, other)
            values = compute_curves(known, unknown)
            intervals = resample_curves(known, unknown, seed)
            rows += [
                self._row(
                    metric, name, getattr(values, metric), getattr(intervals, metric), len(unknown)
                )
                for metric in CurveValues._fields
            ]
            rows.append(self._count("detected", name, unknown > threshold))
            if isinstance(scorer, AnomalyMapScorer) and other.regions is not None:
                rows += self._measure_maps(scorer, name, other, seed)
        return rows

    def _score(self, scorer: UnknownScorer, data: ReadImages) -> tuple[Any, Tensor]:
        """Return scores and probabilities of images, computed or kept."""
        path = self.out / SCORES / f"{self._digest(data, scorer)}.safetensors"
        try:
            tensors = load(path.read_bytes())
            return tensors["scores"].double().numpy(), tensors["probabilities"]
        except (OSError, SafetensorError, LookupError, ValueError):
            pass
        parts: list[Scores] = []
        probabilities: list[Tensor] = []
        done = 0
        for images in data.images.split(256):
            parts.append(scorer.score(images))
            probabilities.append(scorer.predict_probabilities(images))
            done += len(images)
            self.report(f"{self.name}: scores", done, len(data.images))
        tensors = {"scores": torch.cat(parts), "probabilities": torch.cat(probabilities)}
        write_file(path, save(tensors))
        return tensors["scores"].double().numpy(), tensors["probabilities"]

    def _measure_probabilities(
        self, probabilities: Tensor, labels: Targets | None, seed: int
    ) -> list[UnknownRow]:
        """Return accuracy, calibration error, and whether confidence tells correct from wrong."""
        if labels is None or self.classifier.decision.is_multiple:
            return []
        shares = probabilities / probabilities.sum(1, keepdim=True).clamp(min=1e-12)
        confidence, predicted = shares.max(1)
        correct = predicted == labels
        targets = torch.nn.functional.one_hot(labels, shares.shape[1]).float()
        generator = torch.Generator().manual_seed(seed)
        errors = []
        for _ in range(200):
            drawn = torch.randint(len(labels), (len(labels),), generator=generator)
            part = measure_reliability(shares[drawn], targets[drawn], is_multiple=False)
            errors.append(part.error)
        error = measure_reliability(shares, targets, is_multiple=False).error
        low, high = np.quantile(errors, [0.025, 0.975])
        rows = [
            self._count("accuracy", KNOWN, correct.numpy()),
            self._row("calibration_error", KNOWN, error, (float(low), float(high)), len(labels)),
        ]
        if 0 < int(correct.sum()) < len(labels):
            right, wrong = (-confidence[mask].double().numpy() for mask in (correct, ~correct))
            value = compute_curves(right, wrong).auroc
            interval = resample_curves(right, wrong, seed).auroc
            rows.append(self._row("success_auroc", KNOWN, value, interval, len(labels)))
        return rows

    def _measure_maps(
        self, scorer: AnomalyMapScorer, name: str, other: ReadImages, seed: int
    ) -> list[UnknownRow]:
        """Return how well maps find what is marked in images."""
        marks = other.regions
        if marks is None:
            return []
        marked = marks.flatten(1).any(1) & ~marks.flatten(1).all(1)
        if not marked.any():
            return []
        maps = scorer.map_anomalies(other.images[marked]).flatten(1).double().numpy()
        regions = marks[marked].flatten(1).numpy()
        areas = np.array(
            [
                compute_curves(row[~region], row[region]).auroc
                for row, region in zip(maps, regions, strict=True)
            ]
        )
        hits = regions[np.arange(len(maps)), maps.argmax(1)]
        interval = bootstrap_interval(areas, seed)
        return [
            self._row("pixel_auroc", name, float(areas.mean()), interval, len(areas)),
            self._count("pointing", name, hits),
        ]

    def _count(self, metric: str, images: str, values: Any) -> UnknownRow:
        fractions = np.asarray(values, dtype=float)
        interval = wilson_interval(fractions)
        return self._row(metric, images, float(fractions.mean()), interval, len(fractions))

    def _row(
        self, metric: str, images: str, value: float, interval: tuple[float, float], count: int
    ) -> UnknownRow:
        return UnknownRow(self.name, images, metric, value, interval, count, METRICS[metric][1])

    def _report_fit(self, title: str, done: int, total: int) -> None:
        """Report the progress of fitting, with the name of the method before its title."""
        self.report(f"{self.name}: {title}", done, total)

    def _digest(self, data: ReadImages, scorer: UnknownScorer | None = None) -> str:
        """Return the identity of what is fitted to images, or of scores of images."""
        subject = [self.classifier.fingerprint, repr(self.method), data.digest]
        if scorer is not None:
            state = {name: t.clone() for name, t in scorer.state().tensors.items()}
            subject.append(hashlib.sha256(save(state)).hexdigest())
        return hashlib.sha256(f"{subject}".encode()).hexdigest()[:20]


def read_images(
    classifier: Classifier,
    source: ImageSource,
    limit: int | None,
    seed: int,
    report: ProgressCallback,
    *,
    needs_classes: bool = False,
) -> ReadImages:
    """Read images of a source into memory, at the classifier's size.

    Args:
        classifier: the classifier.
        source: the images.
        limit: largest number, drawn at random; None for all.
        seed: seed of the draw.
        report: receives how many were read.
        needs_classes: whether labels must be classes of the classifier; else they are left out.

    Returns:
        The images, with labels where all have one, and with what is marked in them.

    Raises:
        ImagesError: a label is no class of the classifier, or there are no images.
        ImageError: an image cannot be read.
    """
    count = min(len(source), limit or len(source))
    if not count:
        raise ImagesError(f"{source.name}: expected images, got none")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    indices = sorted(order[:count].tolist())
    images, labels, regions = [], [], []
    for batch in batches(source, classifier.prepare, 64, indices=indices):
        images.append(batch.images)
        if needs_classes and source.labelled:
            labels += [_find_class(classifier, source, label) for label in batch.labels]
        size = (batch.images.shape[2], batch.images.shape[3])
        for region, boxes in zip(batch.regions, batch.boxes, strict=True):
            if region is None and boxes is not None and len(boxes):
                region = true_regions(boxes[None], size)[0]
            regions.append(torch.zeros(size, dtype=torch.bool) if region is None else region)
        report(f"reading {source.name}", sum(map(len, images)), count)
    stacked = torch.stack(regions)
    return ReadImages(
        torch.cat(images),
        torch.tensor(labels) if labels else None,
        stacked if bool(stacked.any()) else None,
    )


def _find_class(classifier: Classifier, source: ImageSource, label: str | int | None) -> int:
    try:
        return classifier.index_of("" if label is None else label)
    except TargetError as error:
        raise ImagesError(
            f"{source.name}: the label {label!r} is no class of the classifier ({error}); expected "
            "known images, of its classes; images of other kinds are --unknown"
        ) from error


def _check_request(
    source: ImageSource,
    unknown: Mapping[str, ImageSource],
    methods: Mapping[str, UnknownMethod],
    false_alarms: float,
) -> None:
    """Find what is wrong before anything is read."""
    if not 0 < false_alarms < 1:
        raise ConfigError(
            f"false_alarms: expected a fraction between 0 and 1, got {false_alarms:g}"
        )
    if not methods:
        raise ConfigError("methods: expected at least one, got none")
    if not unknown or KNOWN in unknown:
        raise ConfigError(
            f"unknown: expected images of at least one other kind, with a name other than {KNOWN}"
        )
    for name, method in methods.items():
        if method.needs_labels and not source.labelled:
            raise ImagesError(
                f"{source.name}: has no labels, and {name} learns from them; give images in a "
                "folder per class, or choose a method that needs none, such as mahalanobis"
            )
