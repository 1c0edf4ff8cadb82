"""How well methods recognise unknown images, and whether their probabilities may be believed.

Known images are split: a method is fitted to some, others choose the threshold that a stated
fraction of them exceeds, and the rest are measured. Fitted scorers and scores are kept in a folder,
so that a method or a set of images can be added later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import save
from torch import Tensor

from apercu.classifiers import Classifier, open_classifier
from apercu.classifiers.calibration import measure_reliability
from apercu.devices import enable_gradients
from apercu.errors import ConfigError, ImagesError, RunError, describe_interrupt
from apercu.evaluation.cost import describe_environment
from apercu.images import ImageSource, check_images
from apercu.io import keep_tensors, write_json
from apercu.progress import ProgressCallback, ProgressOption, open_progress
from apercu.robustness.results import read_earlier_rows
from apercu.robustness.unknown.base import (
    AnomalyMapScorer,
    KnownImages,
    UnknownMethod,
    UnknownScorer,
    split_batches,
)
from apercu.robustness.unknown.curves import (
    RESAMPLES,
    CurveValues,
    compute_curves,
    resample_curves,
)
from apercu.robustness.unknown.reading import ImageSets, ReadImages, SetReader
from apercu.robustness.unknown.registry import (
    choose_unknown_methods,
    load_scorer,
    parse_unknown_methods,
    save_scorer,
)
from apercu.robustness.unknown.results import (
    COLUMNS,
    KNOWN,
    METRICS,
    NAMES,
    UnknownRow,
    UnknownRows,
    name_image_sets,
)
from apercu.run_record import lock_folder
from apercu.statistics import bootstrap_interval, wilson_interval
from apercu.types import Images, Targets

RESULTS, SCORERS, SCORES = "results.json", "scorers", "scores"
FALSE_ALARMS = 0.05
"""Fraction of known images that may be taken for unknown ones."""


@enable_gradients()
def measure_unknown(
    classifier: Classifier | str | Path,
    known: ImageSource | str | Path,
    unknown: Mapping[str, ImageSource | str | Path] | Sequence[str],
    methods: Mapping[str, UnknownMethod] | str | None,
    out: str | Path,
    *,
    fit: ImageSource | str | Path | None = None,
    false_alarms: float = FALSE_ALARMS,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
    command: str = "",
) -> UnknownRows:
    """Fit methods to known images, and measure how well they recognise unknown ones.

    Without `fit`, one half of the known images is fitted to, a quarter chooses thresholds, and a
    quarter is measured; with it, one half chooses thresholds and the other is measured.

    >>> from apercu.robustness.unknown import measure_unknown
    >>> rows = measure_unknown(  # doctest: +SKIP
    ...     "card.json", "val/", ["films/"], "energy,mahalanobis", "measured"
    ... )

    Args:
        classifier: the classifier whose answers are to be believed or not, or its SPEC.
        known: known images, labelled where methods or metrics need labels.
        unknown: images of other kinds, by name, or as SPECs, which give them their names.
        methods: methods by name, or as people type them, `a,b:key=value`; None for those of
            `max_softmax`, `energy` and `mahalanobis` that the classifier allows.
        out: folder of the results; scorers and scores that are there are not computed again, and
            rows of earlier calls stay, unless their name now belongs to another method or to other
            images.
        fit: other known images to fit the methods to.
        false_alarms: fraction of known images that may be taken for unknown ones.
        limit: largest number of images of each set.
        seed: seed of the split and of the intervals.
        device: `auto`, `cpu`, `cuda` or `mps`, where a classifier that is opened here computes.
        trust: whether a card may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        command: command line that the results name.

    Returns:
        All rows of the results, those of earlier calls in the same folder included.

    Raises:
        ConfigError: there is no such method, none, or no unknown set, or the false-alarm rate is no
            fraction.
        ImageError: no image of a set can be read; some that cannot are left out with a warning.
        ImagesError: there are too few images, or labels are missing.
        ClassifierError: the classifier does not give what a method needs.
        RunError: the folder holds results of another classifier, other known images or other
            settings, or another process works there.
        OutputError: the folder cannot be written.
    """
    out = Path(out)
    if isinstance(methods, str):
        methods = parse_unknown_methods(methods, seed)
    named = unknown if isinstance(unknown, Mapping) else name_image_sets(unknown)
    check_images(known, fit, *named.values())
    if not isinstance(classifier, Classifier):
        classifier = open_classifier(classifier, device=device, trust=trust)
    classifier.require_classes()
    if methods is None:
        methods = choose_unknown_methods(classifier)
    request = _Request(
        classifier=classifier,
        known=classifier.open_images(known),
        fit=None if fit is None else classifier.open_images(fit),
        unknown={name: classifier.open_images(source) for name, source in named.items()},
        methods=methods,
        false_alarms=false_alarms,
        limit=limit,
        seed=seed,
    )
    request.check()
    kept = describe_interrupt(f"{out} keeps what is finished; the same call goes on")
    with kept, lock_folder(out), open_progress(progress) as report:
        reader = SetReader(classifier, limit, seed, report)
        sets = reader.read(request.known, request.fit, request.unknown)
        settings, definitions = request.describe_settings(sets), request.define_names(sets)
        earlier = read_earlier_rows(out / RESULTS, UnknownRow, settings, definitions, NAMES)
        left_out = reader.merge_left_out(earlier.get("left_out"))
        content = {
            "classifier": classifier.spec,
            **{name: value for name, value in settings.items() if name != "seed"},
            **({"left_out": left_out} if left_out else {}),
            "unknown": {**earlier.get("unknown"), **request.name_unknown()},
            "definitions": {**earlier.get("definitions"), **definitions},
            "command": command,
            "environment": describe_environment(seed, classifier.device),
        }
        measured, rows = UnknownRows(), UnknownRows(earlier.rows)
        for name, method in methods.items():
            measurement = _Measurement(classifier, name, method, out, report)
            scorer = measurement.fit(sets.to_fit)
            measured += measurement.measure(scorer, sets, false_alarms, seed)
            rows = UnknownRows(earlier.merge(measured, COLUMNS))
            write_json(out / RESULTS, {**content, "rows": [row._asdict() for row in rows]})
        return rows


@dataclass(frozen=True, eq=False)
class _Request:
    """What is measured: methods, fitted to known images, on sets of unknown ones.

    Attributes:
        classifier: the classifier.
        known: known images.
        fit: other known images to fit the methods to; None for a half of `known`.
        unknown: images of other kinds, by name.
        methods: methods by name.
        false_alarms: fraction of known images that may be taken for unknown ones.
        limit: largest number of images of each set.
        seed: seed of the split and of the intervals.
    """

    classifier: Classifier
    known: ImageSource
    fit: ImageSource | None
    unknown: Mapping[str, ImageSource]
    methods: Mapping[str, UnknownMethod]
    false_alarms: float
    limit: int | None
    seed: int

    def check(self) -> None:
        """Find what is wrong before anything is read; raises ConfigError or ImagesError."""
        if not 0 < self.false_alarms < 1:
            raise ConfigError(
                f"false_alarms: expected a fraction between 0 and 1, got {self.false_alarms:g}"
            )
        if not self.methods:
            raise ConfigError("methods: expected at least one, got none")
        if not self.unknown or KNOWN in self.unknown:
            raise ConfigError(
                "unknown: expected images of at least one other kind, with a name other than "
                f"{KNOWN}"
            )
        source = self.known if self.fit is None else self.fit
        for name, method in self.methods.items():
            if method.needs_labels and not source.labelled:
                raise ImagesError(
                    f"{source.name}: has no labels, and {name} learns from them; give images in a "
                    "folder per class, or choose a method that needs none, such as mahalanobis"
                )

    def describe_settings(self, sets: ImageSets) -> dict[str, Any]:
        """Return what all rows of a folder have in common.

        The name of the classifier is not among it, as the same one may have another name.
        """
        return {
            "seed": self.seed,
            "fingerprint": self.classifier.fingerprint,
            "images": self.known.name,
            "false_alarms": self.false_alarms,
            "limit": self.limit,
            "fit": None if self.fit is None else self.fit.name,
            "fitted_to": len(sets.to_fit.images),
            "known_digest": sets.known.digest,
            "fit_digest": sets.to_fit.digest,
        }

    def define_names(self, sets: ImageSets) -> dict[str, str]:
        """Return what the names of images and methods in the rows stand for."""
        images = {f"images {name}": other.digest for name, other in sets.unknown.items()}
        return images | {f"method {name}": repr(each) for name, each in self.methods.items()}

    def name_unknown(self) -> dict[str, str]:
        """Return the source of each set of unknown images, by its name."""
        return {name: source.name for name, source in self.unknown.items()}


@dataclass(frozen=True, eq=False)
class _Measurement:
    """One method in the folder of results."""

    classifier: Classifier
    name: str
    method: UnknownMethod
    out: Path
    report: ProgressCallback

    def fit(self, images: ReadImages) -> UnknownScorer:
        """Fit the method to known images, or load the scorer that is kept."""
        known = KnownImages(self.classifier, images.images, images.labels)
        folder = self.out / SCORERS / self._digest(replace(images, regions=None))
        try:
            return load_scorer(folder, self.classifier)
        except RunError:
            scorer = self.method.fit(known, self._report_fit)
            save_scorer(scorer, folder)
            return scorer

    def measure(
        self,
        scorer: UnknownScorer,
        sets: ImageSets,
        false_alarms: float,
        seed: int,
    ) -> list[UnknownRow]:
        """Return all rows of the method."""
        known, labels = self._score(scorer, sets.to_test), sets.to_test.labels
        threshold = float(np.quantile(self._score(scorer, sets.to_choose), 1 - false_alarms))
        rows = [self._count("false_alarms", KNOWN, known > threshold)]
        if labels is not None and not self.classifier.decision.is_multiple:
            compute = scorer.predict_probabilities
            probabilities = self._keep("probabilities", scorer, sets.to_test, compute)
            rows += self._measure_probabilities(probabilities, labels, seed)
        for name, other in sets.unknown.items():
            unknown = self._score(scorer, other)
            values = compute_curves(known, unknown)
            intervals = resample_curves(known, unknown, seed)
            rows += [
                self._row(
                    metric, name, getattr(values, metric), getattr(intervals, metric), len(unknown)
                )
                for metric in CurveValues._fields
            ]
            rows.append(self._count("detected", name, unknown > threshold))
            if isinstance(scorer, AnomalyMapScorer) and scorer.has_maps:
                rows += self._measure_maps(scorer, name, other)
        return rows

    def _score(self, scorer: UnknownScorer, data: ReadImages) -> Float[np.ndarray, " images"]:
        """Return the scores of images as an array, computed or kept."""
        return self._keep("scores", scorer, data, scorer.score).double().numpy()

    def _keep(
        self,
        name: str,
        scorer: UnknownScorer,
        data: ReadImages,
        compute: Callable[[Images], Tensor],
    ) -> Tensor:
        """Return what a function computes of images, from the folder where it is there."""
        path = self.out / SCORES / f"{self._digest(data, scorer)}-{name}.safetensors"

        def compute_all() -> dict[str, Tensor]:
            parts: list[Tensor] = []
            for images in split_batches(data.images, 256):
                parts.append(compute(images))
                self.report(f"{self.name}: {name}", sum(map(len, parts)), len(data.images))
            return {name: torch.cat(parts)}

        return keep_tensors(path, compute_all, [name])[name]

    def _measure_probabilities(
        self, probabilities: Tensor, labels: Targets, seed: int
    ) -> list[UnknownRow]:
        """Return accuracy, calibration error, and whether confidence tells correct from wrong."""
        confidence, predicted = probabilities.max(1)
        correct = predicted == labels
        targets = torch.nn.functional.one_hot(labels, probabilities.shape[1]).float()
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randint(len(labels), (RESAMPLES, len(labels)), generator=generator)
        errors = [
            measure_reliability(probabilities[drawn], targets[drawn], is_multiple=False).error
            for drawn in draws
        ]
        error = measure_reliability(probabilities, targets, is_multiple=False).error
        low, high = np.quantile(errors, [0.025, 0.975])
        interval = min(float(low), error), max(float(high), error)  # few images in a bin enlarge it
        rows = [
            self._count("accuracy", KNOWN, correct.numpy()),
            self._row("calibration_error", KNOWN, error, interval, len(labels)),
        ]
        if 0 < int(correct.sum()) < len(labels):
            right, wrong = (-confidence[mask].double().numpy() for mask in (correct, ~correct))
            value = compute_curves(right, wrong).auroc
            interval = resample_curves(right, wrong, seed).auroc
            rows.append(self._row("success_auroc", KNOWN, value, interval, len(labels)))
        return rows

    def _measure_maps(
        self, scorer: AnomalyMapScorer, name: str, other: ReadImages
    ) -> list[UnknownRow]:
        """Return how well maps find what is marked in images; nothing where nothing is."""
        images, regions = other.images, other.regions
        if regions is None:
            return []
        marked = regions.flatten(1).any(1) & ~regions.flatten(1).all(1)
        if not marked.any():
            return []
        maps = scorer.map_anomalies(images[marked]).flatten(1).double().numpy()
        inside = regions[marked].flatten(1).numpy()
        areas = np.array(
            [
                compute_curves(row[~region], row[region]).auroc
                for row, region in zip(maps, inside, strict=True)
            ]
        )
        hits = inside[np.arange(len(maps)), maps.argmax(1)]
        return [
            self._row(
                "pixel_auroc", name, float(areas.mean()), bootstrap_interval(areas, 0), len(areas)
            ),
            self._count("pointing", name, hits),
        ]

    def _count(self, metric: str, images: str, values: Bool[np.ndarray, " images"]) -> UnknownRow:
        """Return the row of the fraction of images for which something is true."""
        fractions = values.astype(float)
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
