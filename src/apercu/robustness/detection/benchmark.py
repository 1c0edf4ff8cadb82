"""The benchmark of detectors, which are fitted to clean images and tested with unknown attacks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from apercu.classifiers import Classifier
from apercu.evaluation.sample import EvalSample, SampleRecord, draw_sample, split_indices
from apercu.images import ImageSource
from apercu.io import keep_tensors
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.attacks import Attack
from apercu.robustness.detection.detectors import Detector
from apercu.robustness.detection.detectors.base import FEWEST_IMAGES, Features, check_enough
from apercu.robustness.detection.detectors.calibrated import (
    FALSE_ALARMS,
    FOLDS,
    CalibratedDetector,
)
from apercu.robustness.detection.features import (
    FeatureExtractor,
    MethodMapFeatures,
    StabilityFeatures,
)
from apercu.robustness.jobs import AttackKey, describe_attack, name_attack
from apercu.robustness.objectives import Untargeted
from apercu.statistics import auroc, bootstrap_auroc, wilson_interval
from apercu.weights import digest_module

FOLDER = "looks"
"""Folder in which the features are kept."""
TRAINING_TITLE, CLEAN_TITLE = "to learn from", "honest"
"""Titles of the clean images; the names of the files in `FOLDER` depend on them."""
FITTING_TITLE = "fitting detectors"
FOOLED, NO_CLASS = "fooled", "no class"
"""Names of what is kept besides the features: whether an attacked image fools, and whether the
clean image has no predicted class that an attack could take away."""
COLUMNS = ("attack", "epsilon", "look", "detector")
"""What a row is about, besides its metric."""
NAMES = ("attack {attack} {epsilon}", "look {look}", "detector {detector}")
"""Names on which a row depends, as `definitions` of the results say what they stand for."""
BATCH = 16


class DetectionRow(NamedTuple):
    """How well a detector separates one attack from clean images.

    Attributes:
        attack: name of the attack.
        epsilon: budget of the attack; None where it has none.
        look: name of the features.
        detector: name of the detector.
        metric: `auroc`; `detected`, the fraction of attacks above the threshold that 5 % of the
            measured clean images exceed, which is chosen on these very images; `accuracy`, at the
            threshold that 5 % of the training images exceed, where attacked and clean images count
            the same.
        value: value of the metric.
        ci95: both ends of its 95 % interval.
        n: number of attacked images, only those that fool the classifier. An image without a
            predicted class, which is possible where there may be several, is never one of them.
    """

    attack: str
    epsilon: float | None
    look: str
    detector: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    better: str = "higher"


class DetectionRows(list[DetectionRow]):
    """The rows of a benchmark; printed and in a notebook a table."""

    def __str__(self) -> str:
        return "\n".join("  ".join(filter(None, texts)) for texts in self.table())

    def __repr__(self) -> str:
        return f"DetectionRows({len(self)} rows)"

    def table(self) -> list[tuple[str, ...]]:
        """Return the values with their intervals as texts.

        Returns:
            The heads, then a row for each attack, features and detector.
        """
        heads = {
            "auroc": "AUROC",
            "detected": "detected where 5 % of the measured clean images are",
            "accuracy": "accuracy",
        }
        subjects: dict[tuple[str, float | None, str, str], dict[str, DetectionRow]] = {}
        for row in self:
            key = row.attack, row.epsilon, row.look, row.detector
            subjects.setdefault(key, {})[row.metric] = row
        lines = []
        for (attack, epsilon, look, detector), rows in subjects.items():
            title = describe_attack(attack, epsilon)
            count = next(iter(rows.values())).n
            cells = [_format_fraction(rows[name]) if name in rows else "" for name in heads]
            lines.append((title, look, detector, str(count), *cells))
        return [("attack", "features", "detector", "attacked images", *heads.values()), *lines]

    def _repr_html_(self) -> str:
        """Return the table, for notebooks."""
        from apercu.pages import render_output

        heads, *cells = self.table()
        note = "AUROC: 1 separates all attacked images from clean ones, 0.5 is chance."
        return render_output(header=heads, cells=cells, notes=[note])


def _format_fraction(row: DetectionRow) -> str:
    return f"{row.value:.2f} ({row.ci95[0]:.2f} to {row.ci95[1]:.2f})"


@dataclass(frozen=True, eq=False)
class DetectionBenchmark:
    """A classifier, images, attacks, and the features and detectors that should find the attacks.

    Detectors learn from one half of the images, and are tested with the other half, clean and
    attacked.

    Args:
        classifier: classifier that is attacked, towards any class but the predicted one.
        source: clean images; labels are not used.
        extractors: feature extractors by name.
        detectors: detectors by name.
        attacks: attacks by name and budget; detectors never learn from them.
        limit: largest number of images.
        seed: seed of the halves.
        report: receives how many images were read, before the attacks.
    """

    classifier: Classifier
    source: ImageSource
    extractors: Mapping[str, FeatureExtractor]
    detectors: Mapping[str, Detector]
    attacks: Mapping[AttackKey, Attack]
    limit: int | None = None
    seed: int = 0
    report: ProgressCallback = field(default=ignore_progress, repr=False)
    sample: EvalSample = field(init=False)

    def __post_init__(self) -> None:
        tune, _ = split_indices(len(self.source), self.limit, self.seed)
        fewest = FEWEST_IMAGES * FOLDS // (FOLDS - 1)
        check_enough(len(tune), fewest)
        sample = draw_sample(
            self.classifier, self.source, self.limit, self.seed, report=self.report
        )
        check_enough(len(sample.tune), fewest)
        object.__setattr__(self, "sample", sample)

    def run(self, folder: Path, progress: ProgressCallback) -> list[DetectionRow]:
        """Compute all features that are not in a folder yet, and measure the detectors.

        Args:
            folder: folder in which features are kept.
            progress: receives a title and how many images are finished.

        Returns:
            Three rows for each attack that fools, feature extractor and detector.

        Raises:
            ClassifierError: an attack or extractor needs what the classifier does not give.
            ImagesError: there are too few images.
            OutputError: the folder cannot be written.
        """
        training = self._extract_features(TRAINING_TITLE, None, self.sample.tune, folder, progress)
        clean = self._extract_features(CLEAN_TITLE, None, self.sample.test, folder, progress)
        pairs = list(product(self.extractors, self.detectors))
        fitted = {}
        for number, (extractor, detector) in enumerate(pairs):
            progress(FITTING_TITLE, number, len(pairs))
            fitted[extractor, detector] = CalibratedDetector.fit(
                self.detectors[detector], training[extractor], clean[extractor]
            )
        progress(FITTING_TITLE, len(pairs), len(pairs))
        rows: list[DetectionRow] = []
        for (name, epsilon), attack in self.attacks.items():
            title = name_attack((name, epsilon))
            attacked = self._extract_features(title, attack, self.sample.test, folder, progress)
            fooled = attacked[FOOLED].bool()
            if not fooled.any():
                continue
            for (extractor, detector), calibrated in fitted.items():
                key = name, epsilon, extractor, detector
                rows += make_rows(key, calibrated, attacked[extractor][fooled], self.seed)
        return rows

    def count_without_class(self, folder: Path) -> int:
        """Return how many test images have no predicted class, after `run` in the same folder.

        They are no attacked images, as they have no class to lose.
        """
        if not self.classifier.decision.is_multiple:
            return 0
        clean = self._extract_features(CLEAN_TITLE, None, self.sample.test, folder, ignore_progress)
        return int(clean[NO_CLASS].sum())

    def _extract_features(
        self,
        title: str,
        attack: Attack | None,
        records: tuple[SampleRecord, ...],
        folder: Path,
        progress: ProgressCallback,
    ) -> dict[str, torch.Tensor]:
        """Compute or load all features of some images, and whether each fools the classifier."""
        names = [text for texts in self.describe_extractors().values() for text in texts]
        if self.classifier.decision.is_multiple:
            names.append(NO_CLASS)
        subject = (self.classifier.fingerprint, self.sample.digest, title, attack, *names)
        digest = hashlib.sha256(f"{subject}".encode()).hexdigest()[:20]
        path = folder / FOLDER / f"{digest}.safetensors"
        return keep_tensors(path, partial(self._compute_features, title, attack, records, progress))

    def _compute_features(
        self,
        title: str,
        attack: Attack | None,
        records: tuple[SampleRecord, ...],
        progress: ProgressCallback,
    ) -> dict[str, torch.Tensor]:
        """Compute all features of some images, and whether each fools the classifier."""
        decision = self.classifier.decision
        kept = (FOOLED, NO_CLASS) if decision.is_multiple else (FOOLED,)
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in (*self.extractors, *kept)}
        count = 0
        progress(title, 0, len(records))
        for batch in self.sample.read_batches(self.classifier, records, BATCH):
            images = batch.images
            with torch.no_grad():
                logits = self.classifier(images)
            predicted = logits.argmax(1)
            has_class = decision.is_predicted(logits, predicted)
            objective = Untargeted(self.classifier, predicted)
            attacked = images if attack is None else attack(objective, images)
            attacked = (255 * attacked).round() / 255  # as a file would hold them
            parts[FOOLED].append((has_class & objective.is_adversarial(attacked)).cpu())
            if decision.is_multiple:
                parts[NO_CLASS].append(~has_class.cpu())
            for name, extractor in self.extractors.items():
                parts[name].append(extractor(attacked))
            count += len(batch.records)
            progress(title, count, len(records))
        return {name: torch.cat(tensors) for name, tensors in parts.items()}

    def describe_extractors(self) -> dict[str, list[str]]:
        """Describe each extractor by its name, and by all on which its features depend."""
        descriptions: dict[str, list[str]] = {}
        for name, extractor in self.extractors.items():
            own = descriptions[name] = [name]
            if isinstance(extractor, MethodMapFeatures):
                own.append(extractor.method.cache_key)  # a name, or own files, may be another one's
            if isinstance(extractor, StabilityFeatures):
                own.append(repr(extractor.filter))
            explainer = getattr(extractor, "explainer", None)
            if explainer is not None:
                own.append(digest_module(explainer.network, name, {}))
        return descriptions

    def define_names(self) -> dict[str, str]:
        """Return what the names of attacks, features and detectors stand for in this benchmark."""
        extractors = self.describe_extractors().items()
        return {
            **{f"attack {name} {budget}": repr(a) for (name, budget), a in self.attacks.items()},
            **{f"look {name}": " ".join(texts) for name, texts in extractors},
            **{f"detector {name}": repr(each) for name, each in self.detectors.items()},
        }


def make_rows(
    key: tuple[str, float | None, str, str],
    calibrated: CalibratedDetector,
    attacked: Features,
    seed: int,
) -> list[DetectionRow]:
    """Measure AUROC, detection rate and accuracy of one detector for one attack.

    Args:
        key: names of attack, budget, features and detector.
        calibrated: fitted detector.
        attacked: features of the attacked images that fool, `images × features`.
        seed: seed of the bootstrap.

    Returns:
        One row for each of the three metrics.
    """
    clean, count = calibrated.clean_scores, len(attacked)
    scores = calibrated.score_anomaly(attacked).double().numpy()
    detected = (scores > np.quantile(clean, 1 - FALSE_ALARMS)).astype(float)
    above = (scores > calibrated.threshold).astype(float)
    false_alarms = (clean > calibrated.threshold).astype(float)
    interval = bootstrap_auroc(clean, scores, seed)
    return [
        DetectionRow(*key, "auroc", auroc(clean, scores), interval, count),
        DetectionRow(*key, "detected", float(detected.mean()), wilson_interval(detected), count),
        DetectionRow(*key, "accuracy", *_estimate_accuracy(above, 1 - false_alarms), count),
    ]


def _estimate_accuracy(
    attacks: Float[np.ndarray, " attacks"], clean: Float[np.ndarray, " images"]
) -> tuple[float, tuple[float, float]]:
    """Return the mean of two fractions, with an interval from those of both (Newcombe 1998)."""
    fractions, intervals = zip(
        *((values.mean(), wilson_interval(values)) for values in (attacks, clean)), strict=True
    )
    mean = float(np.mean(fractions))
    distances = np.array(intervals) - np.array(fractions)[:, None]
    below, above = np.linalg.norm(distances, axis=0) / 2
    return mean, (mean - float(below), mean + float(above))
