"""Detectors fitted to honest images, and put before attacks that they have never seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save

from apercu.classifiers import Classifier
from apercu.classifiers.fingerprint import digest_module
from apercu.evaluation.sample import EvalSample, SampleRecord, draw_sample
from apercu.images import ImageSource
from apercu.io import write_file
from apercu.robustness.attacks import Attack
from apercu.robustness.detection.detectors import Detector
from apercu.robustness.detection.detectors.base import (
    FEWEST_IMAGES,
    AnomalyScore,
    Features,
    check_enough,
)
from apercu.robustness.detection.features import FeatureExtractor
from apercu.robustness.objectives import Untargeted
from apercu.statistics import wilson_interval

FALSE_ALARMS = 0.05
"""Share of honest images at which the share of detected attacks is told."""
FOLDS = 3
"""Parts of the images to learn from, each judged by what the others teach."""
BATCH = 16
RESAMPLES = 1000

Progress: TypeAlias = Callable[[str, int, int], None]


class CalibratedDetector(NamedTuple):
    """A fitted detector, and what it makes of honest images.

    Attributes:
        strangeness: of any features.
        honest: strangeness of the honest images of the test.
        threshold: above which an image counts as attacked; 5 % of the images to learn from exceed
            it, see `unlearnt`.
    """

    score_anomaly: AnomalyScore
    clean_scores: Float[np.ndarray, " images"]
    threshold: float

    @classmethod
    def fit(
        cls, detector: Detector, usual: Features, honest: Float[torch.Tensor, "others features"]
    ) -> CalibratedDetector:
        """Fits a detector to features of honest images, and shows it others."""
        strangeness = detector.fit(usual)
        threshold = np.quantile(cross_validated_scores(usual, detector), 1 - FALSE_ALARMS)
        return cls(strangeness, strangeness(honest).double().numpy(), float(threshold))


class DetectionRow(NamedTuple):
    """How well a detector tells one attack from honest images.

    Attributes:
        metric: `auroc`; `detected`, the share of attacks at 5 % false alarms among the honest
            images of the test; `accuracy`, of calling both, at the threshold that 5 % of the
            images to learn from exceed (see `unlearnt`), attacks and honest images counting the
            same.
        n: attacked images, those that fool.
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


@dataclass(frozen=True, eq=False)
class DetectionBenchmark:
    """What is watched for.

    Half of the images teach what is usual, the other half is shown honest and attacked.

    Args:
        classifier: the one that is attacked, towards any class but the one it sees.
        source: honest images; labels are not looked at.
        looks: by name.
        detectors: by name.
        attacks: by name and budget; never shown to a detector before.
        limit: only so many of the images.
        seed: of the halves.
    """

    classifier: Classifier
    source: ImageSource
    extractors: Mapping[str, FeatureExtractor]
    detectors: Mapping[str, Detector]
    attacks: Mapping[tuple[str, float | None], Attack]
    limit: int | None = None
    seed: int = 0
    sample: EvalSample = field(init=False)

    def __post_init__(self) -> None:
        found = draw_sample(self.classifier, self.source, self.limit, self.seed)
        check_enough(len(found.tune), FEWEST_IMAGES * FOLDS // (FOLDS - 1))
        object.__setattr__(self, "sample", found)

    def run(self, folder: Path, progress: Progress) -> list[DetectionRow]:
        """Looks at everything that was not looked at before in this folder; then rows.

        Raises:
            ClassifierError: an attack or a look needs what the classifier does not give.
            ImagesError: there are too few images.
            OutputError: the folder cannot be written.
        """
        usual = self._extract_features("to learn from", None, self.sample.tune, folder, progress)
        honest = self._extract_features("honest", None, self.sample.test, folder, progress)
        fitted = {
            (look, name): CalibratedDetector.fit(made, usual[look], honest[look])
            for look in self.extractors
            for name, made in self.detectors.items()
        }
        rows: list[DetectionRow] = []
        for (name, epsilon), attack in self.attacks.items():
            title = name if epsilon is None else f"{name} {255 * epsilon:g}/255"
            attacked = self._extract_features(title, attack, self.sample.test, folder, progress)
            fooled = attacked["fooled"].bool()
            if not fooled.any():
                continue
            for (look, detector), judge in fitted.items():
                case = name, epsilon, look, detector
                rows += make_rows(case, judge, attacked[look][fooled], self.seed)
        return rows

    def _extract_features(
        self,
        title: str,
        attack: Attack | None,
        entries: tuple[SampleRecord, ...],
        folder: Path,
        progress: Progress,
    ) -> dict[str, torch.Tensor]:
        """What every look sees of some images, and whether each fools the classifier."""
        subject = (
            self.classifier.fingerprint,
            self.sample.digest,
            title,
            attack,
            *self._describe_extractors(),
        )
        digest = hashlib.sha256(f"{subject}".encode()).hexdigest()[:20]
        path = folder / "looks" / f"{digest}.safetensors"
        try:
            return load(path.read_bytes())
        except (OSError, SafetensorError):
            pass
        found: dict[str, list[torch.Tensor]] = {name: [] for name in (*self.extractors, "fooled")}
        done = 0
        for trial in self.sample.read_batches(self.classifier, entries, BATCH):
            images = trial.images
            with torch.no_grad():
                seen = self.classifier(images).argmax(1)
            aim = Untargeted(self.classifier, seen)
            shown = images if attack is None else attack(aim, images)
            shown = (255 * shown).round() / 255  # as a file would hold it
            found["fooled"].append(aim.is_adversarial(shown).cpu())
            for name, look in self.extractors.items():
                found[name].append(look(shown))
            done += len(trial.records)
            progress(title, done, len(entries))
        looked = {name: torch.cat(parts).contiguous() for name, parts in found.items()}
        write_file(path, save(looked))
        return looked

    def _describe_extractors(self) -> list[str]:
        """The looks, and the weights of the explainer behind each."""
        named = []
        for name, look in self.extractors.items():
            explainer = getattr(look, "explainer", None)
            named.append(name)
            if explainer is not None:
                named.append(digest_module(explainer.network, name, {}))
        return named


def make_rows(
    case: tuple[str, float | None, str, str],
    judge: CalibratedDetector,
    attacked: Features,
    seed: int,
) -> list[DetectionRow]:
    """AUROC, detection and accuracy of one fitted detector before one attack.

    Args:
        case: attack, budget, look and detector.
        judge: the detector.
        attacked: features of the images that fool.
        seed: of the intervals.
    """
    honest, count = judge.clean_scores, len(attacked)
    strange = judge.score_anomaly(attacked).double().numpy()
    caught = (strange > np.quantile(honest, 1 - FALSE_ALARMS)).astype(float)
    share = (strange > judge.threshold).astype(float)
    alarms = (honest > judge.threshold).astype(float)
    ends = _bootstrap_auroc(honest, strange, seed)
    return [
        DetectionRow(*case, "auroc", auroc(honest, strange), ends, count),
        DetectionRow(*case, "detected", float(caught.mean()), wilson_interval(caught), count),
        DetectionRow(*case, "accuracy", *_estimate_accuracy(share, 1 - alarms), count),
    ]


def _estimate_accuracy(
    attacks: Float[np.ndarray, " attacks"], honest: Float[np.ndarray, " images"]
) -> tuple[float, tuple[float, float]]:
    """The mean of two shares, with the interval that theirs give it (Newcombe 1998)."""
    shares, ends = zip(
        *((one.mean(), wilson_interval(one)) for one in (attacks, honest)), strict=True
    )
    mean = float(np.mean(shares))
    below, above = np.linalg.norm(np.array(ends) - np.array(shares)[:, None], axis=0) / 2
    return mean, (mean - float(below), mean + float(above))


def cross_validated_scores(usual: Features, detector: Detector) -> Float[np.ndarray, " images"]:
    """How strange honest images are to a detector that has learnt from others like them.

    Every third is judged by what the other two thirds teach; fitted to all of them, a detector
    finds each too usual, and a threshold of that gives too many alarms.
    """
    thirds = torch.arange(len(usual)) % FOLDS
    found = np.zeros(len(usual))
    for third in range(FOLDS):
        judge = detector.fit(usual[thirds != third])
        found[(thirds == third).numpy()] = judge(usual[thirds == third]).double().numpy()
    return found


def auroc(honest: Float[np.ndarray, " images"], attacked: Float[np.ndarray, " attacks"]) -> float:
    """Probability that an attacked image is stranger than an honest one; ties count half.

    >>> auroc(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    0.875
    """
    order = np.sort(honest)
    below = np.searchsorted(order, attacked, "left") + np.searchsorted(order, attacked, "right")
    return float(below.mean() / 2 / len(honest))


def _bootstrap_auroc(
    honest: Float[np.ndarray, " images"], attacked: Float[np.ndarray, " attacks"], seed: int
) -> tuple[float, float]:
    """Bootstrapped 95 % interval of the AUROC."""
    generator = np.random.default_rng(seed)
    areas = [
        auroc(generator.choice(honest, len(honest)), generator.choice(attacked, len(attacked)))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(low), float(high)
