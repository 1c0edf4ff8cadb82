"""Learning curves where labels are few: heads that learn from random fractions of the labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from math import ceil, exp, inf, log
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Generator

from apercu.classifiers import Classifier
from apercu.classifiers.reinitialise import reinitialise_classifier
from apercu.errors import ConfigError, ImagesError
from apercu.images import ImageSource, batches
from apercu.methods.layers import compute_deep_features
from apercu.option_strings import parse_value, split_names
from apercu.pages.charts import LearningPoint
from apercu.pretraining.heads import LabelledFeatures, Learner
from apercu.pretraining.heads.base import Labels
from apercu.progress import ProgressCallback
from apercu.training.data import SEED_STEP, TrainingImages, cache_in_memory

BATCH = 32
METRIC = "balanced_accuracy"
"""Metric of the curves that are drawn and compared."""
RESAMPLES = 1000
"""Number of resamples of a bootstrap interval."""
RECALIBRATION_IMAGES = 128
"""Images from which a reinitialised network takes the statistics of its batch norms."""


class LearningCurveRow(NamedTuple):
    """One point of a learning curve: the mean over draws of the labels.

    Attributes:
        start: name of the network whose features are used.
        head: name of the head.
        fraction: fraction of the labels.
        labels: number of labels.
        metric: `accuracy`, or `balanced_accuracy`, the mean of the accuracies of the classes.
        value: value of the metric.
        ci95: both ends of its 95 % interval, over resampled test images and draws.
        draws: number of draws of the labels.
        n: number of test images.
    """

    start: str
    head: str
    fraction: float
    labels: int
    metric: str
    value: float
    ci95: tuple[float, float]
    draws: int
    n: int
    better: str = "higher"


@dataclass(frozen=True)
class FewLabelsProtocol:
    """The heads, fractions of the labels and draws of an evaluation.

    Args:
        heads: heads by name.
        fractions: fractions of the labels, above 0 and up to 1.
        draws: number of draws of the labelled images, for each fraction.
        seed: seed of the draws.

    Raises:
        ConfigError: a fraction or number is out of range.
    """

    heads: Mapping[str, Learner]
    fractions: tuple[float, ...] = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
    draws: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.fractions or not all(0 < fraction <= 1 for fraction in self.fractions):
            raise ConfigError("fractions: expected fractions above 0 and up to 1")
        if self.draws < 1:
            raise ConfigError(f"draws: expected at least 1, got {self.draws}")


def parse_fractions(text: str) -> tuple[float, ...]:
    """Parse fractions such as `0.01,1/20`.

    Raises:
        ConfigError: a word is not a number.
    """
    fractions = []
    for word in split_names(text, "fractions", ()):
        try:
            fractions.append(float(parse_value(float, word)))  # type: ignore[arg-type]
        except ValueError:
            raise ConfigError(f"fractions: expected numbers such as 0.05, got {word!r}") from None
    return tuple(fractions)


def parse_networks(texts: Sequence[str]) -> dict[str, str]:
    """Parse `NAME=SPEC` of each network; return SPECs by name.

    Raises:
        ConfigError: a text has another form, or a name occurs twice.
    """
    specs: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        if not (name and equals and spec):
            raise ConfigError(f"network: expected NAME=SPEC, got {text!r}")
        if name in specs:
            raise ConfigError(f"network: expected each name once, got {name} twice")
        specs[name] = spec
    return specs


def parse_joins(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parse `NAME=A,B` of networks whose features are joined; return their names by the new one.

    Raises:
        ConfigError: a text has another form, or a name occurs twice.
    """
    joins: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, words = text.partition("=")
        parts = tuple(word.strip() for word in words.split(",") if word.strip())
        if not name or len(parts) < 2 or len(set(parts)) < len(parts):
            raise ConfigError(f"join: expected NAME=A,B with two or more networks, got {text!r}")
        if name in joins:
            raise ConfigError(f"join: expected each name once, got {name} twice")
        joins[name] = parts
    return joins


def check_labelled(source: ImageSource) -> None:
    """Check that every image has a label; raises ImagesError."""
    if not source.labelled:
        raise ImagesError(f"{source.name}: has no labels; use folders per class, or labels.csv")


def extract_labelled_features(
    classifier: Classifier,
    source: ImageSource,
    class_names: Sequence[str],
    progress: ProgressCallback,
) -> LabelledFeatures:
    """Extract the features of all images of a labelled source.

    Args:
        classifier: network whose last features are taken.
        source: labelled images.
        class_names: names of the classes, in the order of their indices.
        progress: receives how many images are finished.

    Returns:
        Features, class indices, and the images themselves.

    Raises:
        ImagesError: an image has no label, or one that is not a class.
        ClassifierError: the classifier does not show its layers.
    """
    check_labelled(source)
    indices = {name: index for index, name in enumerate(class_names)}
    features: list[torch.Tensor] = []
    labels: list[int] = []
    for batch in batches(source, classifier.prepare, BATCH):
        for label in batch.labels:
            if str(label) not in indices:
                raise ImagesError(f"{source.name}: {label} is no class of the images to learn from")
            labels.append(indices[str(label)])
        features.append(compute_deep_features(classifier, batch.images.to(classifier.device)).cpu())
        progress(source.name, len(labels), len(source))
    images = cache_in_memory(TrainingImages(source, classifier), progress)
    return LabelledFeatures(torch.cat(features), torch.tensor(labels), images, classifier)


def reinitialise(classifier: Classifier, source: ImageSource, seed: int) -> Classifier:
    """Return the same network with new weights, and batch-norm statistics from all over a source.

    Raises:
        ClassifierError: the classifier is a black box.
    """
    spread = range(0, len(source), max(1, len(source) // RECALIBRATION_IMAGES))
    size = ceil(len(spread) / max(1, len(spread) // BATCH))  # nearly equal batches, none of one
    loaded = batches(source, classifier.prepare, size, indices=spread)
    return reinitialise_classifier(classifier, (batch.images for batch in loaded), seed)


def draw_labels(labels: Labels, fraction: float, seed: int) -> list[int]:
    """Draw the indices of a fraction of the labels of every class, at least one each.

    Smaller fractions of the same seed are parts of larger ones.
    """
    generator = Generator().manual_seed(seed)
    chosen: list[int] = []
    for label in sorted(set(labels.tolist())):
        indices = torch.where(labels == label)[0]
        order = indices[torch.randperm(len(indices), generator=generator)]
        chosen += order[: max(1, round(fraction * len(indices)))].tolist()
    return sorted(chosen)


def measure_curve(
    start: str,
    training: LabelledFeatures,
    test: LabelledFeatures,
    protocol: FewLabelsProtocol,
    progress: ProgressCallback,
) -> list[LearningCurveRow]:
    """Measure the learning curve of every head on one network.

    Args:
        start: name of the network.
        training: features and labels to learn from.
        test: features and labels to measure on.
        protocol: heads, fractions and draws.
        progress: receives how many points are finished.

    Returns:
        Two rows for each head and fraction.
    """
    rows: list[LearningCurveRow] = []
    finished = 0
    for name, head in protocol.heads.items():
        for fraction in protocol.fractions:
            correct, count = [], 0
            for draw in range(protocol.draws):
                chosen = draw_labels(training.labels, fraction, protocol.seed * SEED_STEP + draw)
                count = len(chosen)
                correct.append(head.predict(training, chosen, test, draw) == test.labels)
            key = start, name, fraction, count
            rows += _make_rows(key, torch.stack(correct), test.labels, protocol)
            finished += 1
            progress(start, finished, len(protocol.heads) * len(protocol.fractions))
    return rows


def _make_rows(
    key: tuple[str, str, float, int],
    correct: Bool[torch.Tensor, "draws images"],
    labels: Labels,
    protocol: FewLabelsProtocol,
) -> list[LearningCurveRow]:
    """Make the rows of one point: accuracy and balanced accuracy."""
    hits = correct.numpy().astype(float)
    all_images = [np.arange(len(labels))]
    by_class = [torch.where(labels == label)[0].numpy() for label in set(labels.tolist())]
    rows = []
    for metric, groups in (("accuracy", all_images), ("balanced_accuracy", by_class)):
        value = np.mean([hits[:, group].mean() for group in groups])
        interval = _bootstrap_interval(hits, groups, protocol.seed)
        rows.append(LearningCurveRow(*key, metric, float(value), interval, *hits.shape))
    return rows


def _bootstrap_interval(
    hits: NDArray[np.float64], groups: Sequence[NDArray[np.int64]], seed: int
) -> tuple[float, float]:
    """Return the 95 % interval of the mean over groups; draws and images are resampled."""
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        draws = generator.integers(0, len(hits), len(hits))
        resampled = [group[generator.integers(0, len(group), len(group))] for group in groups]
        means.append(np.mean([hits[np.ix_(draws, images)].mean() for images in resampled]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


class LabelSaving(NamedTuple):
    """The number of labels with which one network is as good as another with more labels.

    Attributes:
        head: name of the head.
        start: name of the network that needs fewer labels.
        other: name of the network that needs more.
        value: balanced accuracy of both.
        labels: number of labels of the other network.
        needed: number of labels of the network, interpolated along its curve.
        at_most: whether the first point of its curve is already as good.
    """

    head: str
    start: str
    other: str
    value: float
    labels: int
    needed: float
    at_most: bool


def find_savings(rows: Sequence[LearningCurveRow]) -> list[LabelSaving]:
    """Compare every network with every other one, for each head.

    The comparison is at the largest number of labels of the other for which the network needs
    fewer.
    """
    savings = []
    for head, curves in group_curves(rows).items():
        for start, other in permutations(curves, 2):
            saving = _find_saving(head, start, other, curves)
            if saving is not None:
                savings.append(saving)
    return savings


def _find_saving(
    head: str, start: str, other: str, curves: Mapping[str, Sequence[LearningPoint]]
) -> LabelSaving | None:
    """Compare two networks; None where the first never needs fewer labels."""
    points = curves[start]
    for point in reversed(curves[other]):
        needed = interpolate_labels(point.value, points)
        if needed < point.labels:
            return LabelSaving(
                head=head,
                start=start,
                other=other,
                value=point.value,
                labels=point.labels,
                needed=needed,
                at_most=needed <= points[0].labels,
            )
    return None


def interpolate_labels(value: float, points: Sequence[LearningPoint]) -> float:
    """Interpolate the number of labels at which a curve first reaches a value.

    The interpolation is linear in the logarithm of the labels; infinity where it never does.

    >>> points = [LearningPoint(10, 0.5, 0.5, 0.5), LearningPoint(1000, 0.9, 0.9, 0.9)]
    >>> [round(interpolate_labels(value, points)) for value in (0.7, 0.4)]
    [100, 10]
    >>> interpolate_labels(0.95, points)
    inf
    """
    if points[0].value >= value:
        return float(points[0].labels)
    for before, after in pairwise(points):
        if after.value >= value:
            fraction = (value - before.value) / (after.value - before.value)
            low, high = log(before.labels), log(after.labels)
            return exp(low + fraction * (high - low))
    return inf


def group_curves(rows: Iterable[LearningCurveRow]) -> dict[str, dict[str, list[LearningPoint]]]:
    """Group the points by head and network, in the order of their labels."""
    curves: dict[str, dict[str, list[LearningPoint]]] = {}
    for row in rows:
        if row.metric == METRIC:
            point = LearningPoint(row.labels, row.value, *row.ci95)
            curves.setdefault(row.head, {}).setdefault(row.start, []).append(point)
    for starts in curves.values():
        for points in starts.values():
            points.sort(key=lambda point: point.labels)
    return curves
