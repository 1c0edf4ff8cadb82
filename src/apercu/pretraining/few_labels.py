"""How much features are worth where labels are few: heads, shares of the labels, draws of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

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
from apercu.pretraining.heads import LabelledFeatures, Learner
from apercu.pretraining.heads.base import Labels
from apercu.training.data import TrainingImages, cache_in_memory

BATCH = 32
RESAMPLES = 1000
RECALIBRATION_IMAGES = 128
"""Images from which a network that is drawn anew takes the statistics of its batch norms."""

Progress: TypeAlias = Callable[[str, int, int], None]


class LearningCurveRow(NamedTuple):
    """One point of a learning curve: the mean over draws of the labels.

    Attributes:
        start: name of the network whose features are used.
        metric: `accuracy`, or `balanced_accuracy`, the mean of the classes' own accuracies.
        labels: how many were learnt from.
        ci95: over the images of the test and the draws, resampled together.
        n: images of the test.
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
    """What is tried.

    Args:
        heads: what learns, by name.
        fractions: shares of the labels, above 0 and up to 1.
        draws: of the labelled images, for each share.
        seed: of the draws.

    Raises:
        ConfigError: a share or number that cannot be.
    """

    heads: Mapping[str, Learner]
    fractions: tuple[float, ...] = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
    draws: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.fractions or not all(0 < share <= 1 for share in self.fractions):
            raise ConfigError("fractions: expected shares above 0 and up to 1")
        if self.draws < 1:
            raise ConfigError(f"draws: expected at least 1, got {self.draws}")


def extract_labelled_features(
    classifier: Classifier, source: ImageSource, names: Sequence[str], progress: Progress
) -> LabelledFeatures:
    """Features of all images of a labelled source.

    Args:
        classifier: whose last features are taken.
        source: labelled.
        names: the classes, in the order of their indices.
        progress: told how many images are done.

    Raises:
        ImagesError: an image has no label, or one that is no class.
        ClassifierError: the classifier shows no layers.
    """
    if not source.labelled:
        raise ImagesError(f"{source.name}: has no labels; use folders per class, or labels.csv")
    places = {name: index for index, name in enumerate(names)}
    features: list[torch.Tensor] = []
    labels: list[int] = []
    for batch in batches(source, classifier.prepare, BATCH):
        for label in batch.labels:
            if str(label) not in places:
                raise ImagesError(f"{source.name}: {label} is no class of the images to learn from")
            labels.append(places[str(label)])
        features.append(compute_deep_features(classifier, batch.images.to(classifier.device)).cpu())
        progress(source.name, len(labels), len(source))
    images = cache_in_memory(TrainingImages(source, classifier))
    return LabelledFeatures(torch.cat(features), torch.tensor(labels), images, classifier)


def reinitialise(classifier: Classifier, source: ImageSource, seed: int) -> Classifier:
    """The same network with weights drawn anew, and statistics of images from all over the set.

    Raises:
        ClassifierError: the classifier is a black box.
    """
    spread = range(0, len(source), max(1, len(source) // RECALIBRATION_IMAGES))
    size = -(-len(spread) // max(1, len(spread) // BATCH))  # of about equal batches, none of one
    shown = batches(source, classifier.prepare, size, indices=spread)
    return reinitialise_classifier(classifier, (batch.images for batch in shown), seed)


def draw_labels(labels: Labels, fraction: float, seed: int) -> list[int]:
    """Indices of a share of the labels of every class, at least one each.

    Smaller shares of the same seed are within larger ones.
    """
    generator = Generator().manual_seed(seed)
    chosen: list[int] = []
    for one in sorted(set(labels.tolist())):
        places = torch.where(labels == one)[0]
        order = places[torch.randperm(len(places), generator=generator)]
        chosen += order[: max(1, round(fraction * len(places)))].tolist()
    return sorted(chosen)


def measure_curve(
    start: str,
    learn: LabelledFeatures,
    test: LabelledFeatures,
    protocol: FewLabelsProtocol,
    progress: Progress,
) -> list[LearningCurveRow]:
    """The learning curve of every head on one network."""
    rows: list[LearningCurveRow] = []
    done = 0
    for name, head in protocol.heads.items():
        for fraction in protocol.fractions:
            right, count = [], 0
            for draw in range(protocol.draws):
                chosen = draw_labels(learn.labels, fraction, protocol.seed * 1_000_003 + draw)
                count = len(chosen)
                right.append(head.predict(learn, chosen, test, draw) == test.labels)
            rows += _make_rows(
                (start, name, fraction, count), torch.stack(right), test.labels, protocol
            )
            done += 1
            progress(start, done, len(protocol.heads) * len(protocol.fractions))
    return rows


def _make_rows(
    case: tuple[str, str, float, int],
    right: Bool[torch.Tensor, "draws images"],
    labels: Labels,
    protocol: FewLabelsProtocol,
) -> list[LearningCurveRow]:
    hits = right.numpy().astype(float)
    every = [np.arange(len(labels))]
    by_class = [torch.where(labels == one)[0].numpy() for one in set(labels.tolist())]
    rows = []
    for metric, groups in (("accuracy", every), ("balanced_accuracy", by_class)):
        value = np.mean([hits[:, group].mean() for group in groups])
        ends = _bootstrap_interval(hits, groups, protocol.seed)
        rows.append(LearningCurveRow(*case, metric, float(value), ends, *hits.shape))
    return rows


def _bootstrap_interval(
    hits: NDArray[np.float64], groups: Sequence[NDArray[np.int64]], seed: int
) -> tuple[float, float]:
    """95 % of the mean over groups of images, draws and the images of each group resampled."""
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        draws = generator.integers(0, len(hits), len(hits))
        drawn = [group[generator.integers(0, len(group), len(group))] for group in groups]
        means.append(np.mean([hits[np.ix_(draws, images)].mean() for images in drawn]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
