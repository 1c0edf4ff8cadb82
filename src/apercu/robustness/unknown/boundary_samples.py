"""Unknown images by a classifier that is unsure at samples on a level set of its own loss: BoS.

"Boundary optimised samples" (ICPR 2020) are made by following the gradient of a loss to the
*input*, without a generator, until all of them lie on one level set of the loss; then the network
is trained for a low largest probability on them. The paper reports better detection of unknown
small images.

Its loss is not stated in what we could read. Ours is the divergence of the network's probabilities
from equal ones, which is 0 where it is unsure and grows with its confidence; noisy images walk to
the level by Newton's steps along the gradient of the network as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.filters.checks import check_between, check_not_negative, check_positive, check_whole
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.unknown.base import KnownImages, UnknownScorer, check_one_class
from apercu.robustness.unknown.training import (
    CopiedNetwork,
    TrainedUnknownMethod,
)
from apercu.types import Images, Logits, LogitsFn, Scores, Targets

LONGEST_STEP = 1.0
"""Longest step of a sample, as a length over all pixels."""


@final
@dataclass(frozen=True)
class BoundarySamples(TrainedUnknownMethod):
    """The largest probability of a network that was trained to be unsure at its boundary (BoS).

    Args:
        level: value of the loss on which all samples lie, in nats.
        noise: standard deviation of the noise from which an image starts to the level.
        walk: number of steps to the level.
        weight: weight of the samples in the training.
        steps: steps of the training.
        batch: images of a step.
        rate: learning rate.
        seed: seed of batches and noise.
    """

    name = "boundary_samples"
    needs_labels: ClassVar[bool] = True
    level: float = 0.5
    noise: float = 0.2
    walk: int = 8
    weight: float = 0.5
    steps: int = 500

    def __post_init__(self) -> None:
        check_positive(self.name, level=self.level)
        check_between(self.name, 0.0, 1.0, noise=self.noise)
        check_whole(self.name, 1, 1000, walk=self.walk)
        check_not_negative(self.weight, f"{self.name}: weight")
        super().__post_init__()

    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        check_one_class(known.classifier, self.name)
        data = known.images, known.require_labels(self.name)
        before = CopiedNetwork(known.classifier).eval().requires_grad_(False)
        network = CopiedNetwork(known.classifier).begin_training()

        def compute_loss(images: Images, labels: Targets) -> Tensor:
            noise = self.noise * torch.randn(images.shape).to(images)
            samples = walk_to_level(before, (images + noise).clamp(0, 1), self.level, self.walk)
            logits, unsure = network(torch.cat([images, samples])).split(len(images))
            confidence = measure_confidence(unsure).mean()
            return F.cross_entropy(logits, labels) + self.weight * confidence

        self.make_plan().train(
            network.parameters(), data, compute_loss, report, "samples at the boundary"
        )
        network.eval().requires_grad_(False)
        return BoundarySamplesScorer(self, known.classifier, network)

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        return BoundarySamplesScorer(self, classifier, CopiedNetwork.restore(classifier, tensors))


@final
@dataclass(frozen=True, eq=False)
class BoundarySamplesScorer(UnknownScorer):
    """A network that is unsure outside of what it knows.

    Args:
        method: the method.
        classifier: the classifier from which it was trained further.
        network: the network.
    """

    method: BoundarySamples
    classifier: Classifier
    network: CopiedNetwork

    def compute_scores(self, images: Images) -> Scores:
        return 1 - self.compute_probabilities(images).max(1).values

    def compute_probabilities(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Return the softmax of the network that was trained further."""
        probabilities: Tensor = self.network(images).softmax(1)
        return probabilities

    def pack_tensors(self) -> dict[str, Tensor]:
        return self.network.pack()


def measure_confidence(logits: Logits) -> Scores:
    """Return the divergence of equal probabilities from those of the logits, in nats.

    It is 0 where all logits are equal, and grows with the distance between them.
    """
    return logits.logsumexp(1) - logits.mean(1) - math.log(logits.shape[1])


def walk_to_level(logits_fn: LogitsFn, images: Images, level: float, steps: int) -> Images:
    """Move images along the gradient of their confidence until it has a value.

    Args:
        logits_fn: a network that gives gradients.
        images: images in [0, 1], `batch × channels × height × width`.
        level: the confidence that is wanted, in nats; see `measure_confidence`.
        steps: number of Newton's steps, each of a length of at most 1.

    Returns:
        Images in [0, 1] without gradients. Where the gradient vanishes an image stays.
    """
    for _ in range(steps):
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            confidence = measure_confidence(logits_fn(images))
            (gradient,) = torch.autograd.grad(confidence.sum(), images)
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
        size = ((confidence.detach() - level) / length).clamp(-LONGEST_STEP, LONGEST_STEP)
        change = (size / length)[:, None, None, None] * gradient
        images = (images.detach() - change).clamp(0, 1)
    return images.detach()
