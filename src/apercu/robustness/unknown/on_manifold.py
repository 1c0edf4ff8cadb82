"""Calibration by images between the classes, made on the manifold of known images: OMADA.

Patel et al. 2020 ("On-manifold adversarial data augmentation improves uncertainty calibration")
learn a latent space of the images with a classifier in it, move codes towards another class until
that classifier is unsure, decode them, and train the network on them with the soft labels of the
latent classifier. They report better calibration, and better detection of unknown images, than
augmentation off the manifold.

Our choices: the latent space is that of an autoencoder with noisy codes; a code walks towards a
random other class until this class has a random probability of up to one half; the network is
trained further, not from random weights; the score is the entropy of its probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.filters.checks import check_count, check_not_negative, check_whole
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.unknown.base import KnownImages, UnknownScorer, check_one_class
from apercu.robustness.unknown.max_softmax import compute_entropy
from apercu.robustness.unknown.training import (
    ConvDecoder,
    ConvEncoder,
    CopiedNetwork,
    TrainedUnknownMethod,
    make_seeded,
)
from apercu.types import Images, Scores, Targets

CODE_NOISE = 0.1
"""Standard deviation of the noise of a code in training, in units of its spread in a batch."""
WALK = 10
"""Steps of a code towards another class."""
CLASS_WEIGHT = 0.1
"""Weight of the latent classifier in the training of the autoencoder."""


@final
@dataclass(frozen=True)
class OnManifold(TrainedUnknownMethod):
    """The entropy of a network that was trained with soft labels between the classes (OMADA).

    Args:
        steps: steps of the network.
        code_steps: steps of the latent space before.
        batch: images of a step.
        rate: learning rate.
        code: numbers of a code.
        weight: weight of the images between the classes.
        seed: seed of weights, batches and noise.
    """

    name = "on_manifold"
    needs_labels: ClassVar[bool] = True
    steps: int = 500
    code_steps: int = 1000
    code: int = 128
    weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.code_steps, f"{self.name}: code_steps")
        check_whole(self.name, 2, 1024, code=self.code)
        check_not_negative(self.weight, f"{self.name}: weight")

    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        check_one_class(known.classifier, self.name)
        data = known.images, known.require_labels(self.name)
        manifold = make_seeded(self.seed, lambda: Manifold(known.classifier, self.code))
        manifold.to(known.classifier.device)
        self.make_plan(steps=self.code_steps).train(
            manifold.parameters(), data, manifold.compute_loss, report, "latent space"
        )
        manifold.eval().requires_grad_(False)
        network = CopiedNetwork(known.classifier).begin_training()

        def compute_loss(images: Images, labels: Targets) -> Tensor:
            between, soft = manifold.make_between(images, labels)
            logits, others = network(torch.cat([images, between])).split(len(images))
            return F.cross_entropy(logits, labels) + self.weight * F.cross_entropy(others, soft)

        self.make_plan().train(
            network.parameters(), data, compute_loss, report, "images between the classes"
        )
        network.eval().requires_grad_(False)
        return OnManifoldScorer(self, known.classifier, network)

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        return OnManifoldScorer(self, classifier, CopiedNetwork.restore(classifier, tensors))


class Manifold(nn.Module):
    """A latent space of images, with a classifier of codes.

    Args:
        classifier: the classifier, for the numbers of channels, pixels and classes.
        code: numbers of a code.
    """

    def __init__(self, classifier: Classifier, code: int) -> None:
        super().__init__()
        self.classes = len(classifier.classes)
        self.encoder = ConvEncoder(classifier.channels, classifier.size, 32, code)
        self.decoder = ConvDecoder(self.encoder, code, classifier.channels)
        self.head = nn.Sequential(nn.Linear(code, 128), nn.ReLU(), nn.Linear(128, self.classes))

    def compute_loss(self, images: Images, labels: Targets) -> Tensor:
        """Return the error of the reconstruction from noisy codes, and that of the classes.

        Args:
            images: images in [0, 1], `batch × channels × height × width`.
            labels: their classes.

        Returns:
            The loss, a scalar.
        """
        codes = self.encoder(images)
        spread = codes.detach().std(0, keepdim=True)
        noisy = codes + CODE_NOISE * spread * torch.randn(codes.shape).to(codes)
        error = F.mse_loss(self.decoder(noisy), images)
        return error + CLASS_WEIGHT * F.cross_entropy(self.head(noisy), labels)

    def make_between(self, images: Images, labels: Targets) -> tuple[Images, Tensor]:
        """Return decoded images between the class of each image and another one.

        Args:
            images: images in [0, 1], `batch × channels × height × width`.
            labels: their classes.

        Returns:
            Images without gradients, and their probabilities, `batch × classes`.
        """
        codes = self.encoder(images).detach()
        shift = torch.randint(1, self.classes, labels.shape).to(labels)
        others = (labels + shift) % self.classes
        goal = torch.rand(len(labels)).to(codes) / 2
        pace = codes.std(0).norm() / WALK
        for _ in range(WALK):
            codes.requires_grad_()
            with torch.enable_grad():
                logs = self.head(codes).log_softmax(1).gather(1, others[:, None])[:, 0]
                (gradient,) = torch.autograd.grad(logs.sum(), codes)
            is_near = logs.detach().exp() >= goal
            direction = F.normalize(gradient, dim=1)
            codes = torch.where(is_near[:, None], codes.detach(), codes.detach() + pace * direction)
        with torch.no_grad():
            return self.decoder(codes), self.head(codes).softmax(1)


@final
@dataclass(frozen=True, eq=False)
class OnManifoldScorer(UnknownScorer):
    """A network that is unsure between the classes.

    Args:
        method: the method.
        classifier: the classifier from which it was trained further.
        network: the network.
    """

    method: OnManifold
    classifier: Classifier
    network: CopiedNetwork

    def compute_scores(self, images: Images) -> Scores:
        return compute_entropy(self.compute_probabilities(images))

    def compute_probabilities(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Return the softmax of the network that was trained further."""
        probabilities: Tensor = self.network(images).softmax(1)
        return probabilities

    def pack_tensors(self) -> dict[str, Tensor]:
        return self.network.pack()
