"""Unknown images by extreme values of the distances to class means: OpenMax.

Bendale and Boult 2016 ("Towards open set deep networks") take the mean logits of each class over
correctly classified images, fit a Weibull distribution to the largest distances from them, and
shrink the logits of the most probable classes by the probability that the distance is extreme. What
is taken away is the logit of one more class, the unknown; a softmax over all gives its probability.
They report fewer errors on unknown and fooling images than a threshold on the softmax.

The distance is that of the authors' code: the cosine distance of the logits, and a 200th of the
Euclidean one. Our choices where the paper leaves it open: the Weibull distribution begins at 0 and
is fitted by maximum likelihood; a class with too few correct images takes those of all. A network
that gives probabilities has no logits: their logarithms without the mean of each image take the
place, since logarithms are all negative, and taking a part of them away would raise them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ImagesError
from apercu.filters.checks import check_whole
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.unknown.base import (
    KnownImages,
    UnknownMethod,
    UnknownScorer,
    check_finite,
    check_one_class,
)
from apercu.types import Images, Logits, Scores

EUCLIDEAN_SCALE = 200.0
"""Number by which the Euclidean distance is divided before the cosine distance is added."""
FEWEST_OF_CLASS = 3
"""Correct images below which a class takes the distances of all classes."""


@final
@dataclass(frozen=True)
class OpenMax(UnknownMethod):
    """The probability of the unknown class by OpenMax (Bendale and Boult 2016).

    Args:
        tail: number of largest distances of each class that the Weibull distribution is fitted to.
        top: number of most probable classes whose logits are changed.
    """

    name = "openmax"
    needs_labels = True
    tail: int = 20
    top: int = 10

    def __post_init__(self) -> None:
        check_whole("openmax", 3, 10_000, tail=self.tail)
        check_whole("openmax", 1, 10_000, top=self.top)

    @torch.no_grad()
    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        check_one_class(known.classifier, self.name)
        labels = known.require_labels(self.name)
        parts: list[Tensor] = []
        for images in known.read_batches():
            parts.append(read_activations(known.classifier, images).double().cpu())
            report("logits of known images", sum(map(len, parts)), len(known.images))
        logits = check_finite(torch.cat(parts), self.name, known.classifier)
        correct = logits.argmax(1) == labels
        if int(correct.sum()) < FEWEST_OF_CLASS:
            raise ImagesError(
                f"openmax: expected at least {FEWEST_OF_CLASS} images that are classified "
                f"correctly, got {int(correct.sum())} of {len(labels)}"
            )
        logits, labels = logits[correct], labels[correct]
        classes = len(known.classifier.classes)
        counts = torch.bincount(labels, minlength=classes)
        everyone = torch.ones_like(labels, dtype=torch.bool)
        members = [
            labels == index if counts[index] >= FEWEST_OF_CLASS else everyone
            for index in range(classes)
        ]
        means = torch.stack([logits[rows].mean(0) for rows in members])
        distances = measure_distances(logits, means).gather(1, labels[:, None])[:, 0]
        shapes, scales = torch.zeros(classes).double(), torch.zeros(classes).double()
        for index, rows in enumerate(members):
            largest = distances[rows].topk(min(self.tail, int(rows.sum()))).values
            shapes[index], scales[index] = fit_weibull(largest)
        return OpenMaxScorer(self, known.classifier, means, shapes, scales)

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        means = tensors[_name_means(classifier)]
        return OpenMaxScorer(self, classifier, means, tensors["shapes"], tensors["scales"])


@final
@dataclass(frozen=True, eq=False)
class OpenMaxScorer(UnknownScorer):
    """The softmax with one more class, the unknown.

    Args:
        method: the method.
        classifier: the classifier.
        means: mean logits of each class, `classes × classes`.
        shapes: shape of each class's Weibull distribution.
        scales: scale of each class's Weibull distribution.
    """

    method: OpenMax
    classifier: Classifier
    means: Float[Tensor, "classes classes"]
    shapes: Float[Tensor, " classes"]
    scales: Float[Tensor, " classes"]

    def compute_scores(self, images: Images) -> Scores:
        return self.compute_open_probabilities(read_activations(self.classifier, images))[:, -1]

    def compute_probabilities(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Return the probabilities of the classes, of which the unknown one takes its part."""
        return self.compute_open_probabilities(read_activations(self.classifier, images))[:, :-1]

    def compute_open_probabilities(self, logits: Logits) -> Float[Tensor, "batch open"]:
        """Return the probabilities of all classes and, last, of the unknown one.

        Args:
            logits: logits of the classifier as `read_activations` returns them, `batch × classes`.

        Returns:
            Probabilities, `batch × (classes + 1)`.
        """
        logits = logits.double()
        means, shapes, scales = (t.to(logits) for t in (self.means, self.shapes, self.scales))
        extreme = 1 - (-((measure_distances(logits, means) / scales) ** shapes)).exp()
        order = logits.argsort(1, descending=True)
        top = min(self.method.top, logits.shape[1])
        ranks = torch.arange(logits.shape[1]).to(logits)
        revised = ((top - ranks) / top).clamp(min=0).expand_as(logits)
        weights = torch.zeros_like(logits).scatter(1, order, revised) * extreme
        unknown = (logits * weights).sum(1, keepdim=True)
        return torch.cat([logits * (1 - weights), unknown], 1).softmax(1)

    def pack_tensors(self) -> dict[str, Tensor]:
        means = {_name_means(self.classifier): self.means}
        return means | {"shapes": self.shapes, "scales": self.scales}


def read_activations(classifier: Classifier, images: Images) -> Logits:
    """Return the logits of images; of probabilities the logarithms, with a mean of 0."""
    logits = classifier(images)
    if classifier.output.holds_probabilities:
        logits = logits - logits.mean(1, keepdim=True)
    return logits


def _name_means(classifier: Classifier) -> str:
    """Return the name of the means among the tensors that are kept."""
    return "centred_means" if classifier.output.holds_probabilities else "means"


def measure_distances(
    logits: Float[Tensor, "batch classes"], means: Float[Tensor, "means classes"]
) -> Float[Tensor, "batch means"]:
    """Return the distance of each image's logits from the mean logits of each class."""
    euclidean = torch.cdist(logits, means, compute_mode="donot_use_mm_for_euclid_dist")
    cosine = 1 - torch.nn.functional.cosine_similarity(logits[:, None], means[None], dim=2)
    return euclidean / EUCLIDEAN_SCALE + cosine


def fit_weibull(values: Float[Tensor, " values"]) -> tuple[float, float]:
    """Return shape and scale of the Weibull distribution of some numbers, by maximum likelihood.

    Args:
        values: numbers of at least 0; equal ones get a very narrow distribution.

    Returns:
        The shape and the scale of a distribution that begins at 0.
    """
    values = values.double().clamp(min=1e-12)
    logs = values.log()
    centred = logs - logs.max()
    low, high = 1e-3, 1e3

    def compute_slope(shape: float) -> float:
        weights = (shape * centred).softmax(0)
        return float((weights * centred).sum() - centred.mean()) - 1 / shape

    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if compute_slope(middle) < 0 else (low, middle)
    shape = (low * high) ** 0.5
    scale = float(logs.max() + (shape * centred).exp().mean().log() / shape)
    return shape, float(torch.tensor(scale, dtype=torch.double).exp())
