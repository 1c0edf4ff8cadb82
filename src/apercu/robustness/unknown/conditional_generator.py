"""Unknown images by samples around each class from a conditional generator: UQGAN.

Oberdiek et al. 2022 (arXiv 2201.13279) train a conditional autoencoder, whose codes are a space of
few dimensions; a conditional GAN makes codes around those of each class; and a one-vs-all
classifier learns that images of other classes and decoded samples are not of the class. They report
better detection of unknown classes and better calibration than ensembles and Monte-Carlo dropout,
and better still with dropout in their own classifier.

Our choices where the paper's text was not at hand: the generator is rewarded where its samples look
real to the critic *and* are outside of the class to the classifier, and samples of one class are
pushed to different directions from its centre; the classifier continues from the network that is
guarded instead of random weights; the probability of a class is its fraction of all one-vs-all
probabilities, and an image is unknown as far as the class that it would belong to is denied.
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
from apercu.filters.checks import check_between, check_count, check_not_negative, check_whole
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.unknown.base import KnownImages, UnknownScorer, check_one_class
from apercu.robustness.unknown.training import (
    ConvDecoder,
    ConvEncoder,
    CopiedNetwork,
    TrainedUnknownMethod,
    make_seeded,
)
from apercu.types import Images, Scores, Targets

GAN_RATE = 2e-4
"""Learning rate of generator and critic."""
HIDDEN = 256
"""Hidden numbers of generator and critic."""


@final
@dataclass(frozen=True)
class ConditionalGenerator(TrainedUnknownMethod):
    """One-vs-all classification against generated samples around each class (UQGAN).

    Args:
        steps: steps of generator and classifier.
        code_steps: steps of the autoencoder before.
        batch: images of a step.
        rate: learning rate of autoencoder and classifier.
        code: numbers of a code.
        class_weight: weight of being outside of the class in the loss of the generator.
        gradient_weight: weight of the gradient penalty of the critic.
        real_fraction: fraction of real images of other classes in what the classifier rejects.
        spread_weight: weight of different directions in the loss of the generator.
        seed: seed of weights, batches and noise.
    """

    name = "conditional_generator"
    needs_labels: ClassVar[bool] = True
    renamed_settings: ClassVar[Mapping[str, str]] = {"real_share": "real_fraction"}
    code_steps: int = 1000
    code: int = 128
    class_weight: float = 4.0
    gradient_weight: float = 10.0
    real_fraction: float = 0.6
    spread_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.code_steps, f"{self.name}: code_steps")
        check_whole(self.name, 2, 1024, code=self.code)
        check_between(self.name, 0.0, 1.0, real_fraction=self.real_fraction)
        for value in (self.class_weight, self.gradient_weight, self.spread_weight):
            check_not_negative(value, f"{self.name}: weights")

    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        check_one_class(known.classifier, self.name)
        data = known.images, known.require_labels(self.name)
        device = known.classifier.device
        coder = make_seeded(self.seed, lambda: ConditionalAutoencoder(known, self.code))
        coder.to(device)

        def compute_error(images: Images, labels: Targets) -> Tensor:
            return F.mse_loss(coder(images, labels), images)

        self.make_plan(steps=self.code_steps).train(
            coder.parameters(), data, compute_error, report, "autoencoder of the classes"
        )
        coder.eval().requires_grad_(False)
        game = make_seeded(
            self.seed, lambda: LatentGame(self, len(known.classifier.classes), coder)
        )
        game.to(device)
        network = CopiedNetwork(known.classifier).begin_training()

        def compute_loss(images: Images, labels: Targets) -> Tensor:
            samples = game.step(images, labels, network)
            logits = network(torch.cat([images, samples]))
            real, generated = logits.split(len(images))
            own = F.one_hot(labels, logits.shape[1]).bool()
            accepted = F.softplus(-real[own]).mean()
            rejected = F.softplus(real[~own]).mean()
            outside = F.softplus(generated.gather(1, labels[:, None])).mean()
            return accepted + self.real_fraction * rejected + (1 - self.real_fraction) * outside

        self.make_plan().train(
            network.parameters(), data, compute_loss, report, "generator and classifier"
        )
        network.eval().requires_grad_(False)
        return ConditionalGeneratorScorer(self, known.classifier, network)

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        return ConditionalGeneratorScorer(
            self, classifier, CopiedNetwork.restore(classifier, tensors)
        )


class ConditionalAutoencoder(nn.Module):
    """Images with their classes → the same images, through a code.

    Args:
        known: classifier and images, for their numbers of channels, pixels and classes.
        code: numbers of a code.
    """

    def __init__(self, known: KnownImages, code: int) -> None:
        super().__init__()
        classifier = known.classifier
        self.classes = len(classifier.classes)
        channels, size = classifier.channels, classifier.size
        self.encoder = ConvEncoder(channels + self.classes, size, 32, code)
        self.decoder = ConvDecoder(self.encoder, code + self.classes, channels)

    def encode(self, images: Images, labels: Targets) -> Tensor:
        """Return the codes, `batch × code`."""
        marks = F.one_hot(labels, self.classes).to(images)[:, :, None, None]
        planes = marks.expand(-1, -1, *images.shape[2:])
        codes: Tensor = self.encoder(torch.cat([images, planes], 1))
        return codes

    def decode(self, codes: Tensor, labels: Targets) -> Images:
        """Return the images of codes."""
        images: Tensor = self.decoder(torch.cat([codes, mark_classes(codes, labels, self)], 1))
        return images

    def forward(self, images: Images, labels: Targets) -> Images:
        """Return the images after they went through their codes."""
        return self.decode(self.encode(images, labels), labels)


def mark_classes(codes: Tensor, labels: Targets, coder: ConditionalAutoencoder) -> Tensor:
    """Return classes as rows of zeros with a one, of the kind of the codes."""
    return F.one_hot(labels, coder.classes).to(codes)


class LatentGame(nn.Module):
    """Generator and critic of codes, which play against each other and the classifier.

    Args:
        method: the settings.
        classes: number of classes.
        coder: the trained autoencoder.
    """

    centres: Tensor

    def __init__(
        self, method: ConditionalGenerator, classes: int, coder: ConditionalAutoencoder
    ) -> None:
        super().__init__()
        self.method, self.coder = method, coder
        self.generator = _build_layers(method.code + classes, method.code)
        self.critic = _build_layers(method.code + classes, 1)
        self.register_buffer("centres", torch.zeros(classes, method.code))
        self.generator_steps = torch.optim.Adam(
            self.generator.parameters(), GAN_RATE, betas=(0.5, 0.9)
        )
        self.critic_steps = torch.optim.Adam(self.critic.parameters(), GAN_RATE, betas=(0.5, 0.9))

    def step(self, images: Images, labels: Targets, network: nn.Module) -> Images:
        """Take a step of critic and generator, and return decoded samples without gradients.

        Args:
            images: images in [0, 1], `batch × channels × height × width`.
            labels: their classes, for which samples are made.
            network: the one-vs-all classifier.

        Returns:
            One sample per image, around its class.
        """
        with torch.no_grad():
            codes = self.coder.encode(images, labels)
            self._follow_centres(codes, labels)
        marks = mark_classes(codes, labels, self.coder)
        noise = torch.randn(codes.shape).to(codes)
        samples = self.generator(torch.cat([noise, marks], 1))
        loss = self._compute_critic_loss(samples.detach(), codes, marks)
        self.critic_steps.zero_grad()
        torch.autograd.backward(loss)
        self.critic_steps.step()
        decoded = self.coder.decode(samples, labels)
        class_logits = network(decoded).gather(1, labels[:, None])
        loss = (
            -self.critic(torch.cat([samples, marks], 1)).mean()
            + self.method.class_weight * F.softplus(class_logits).mean()
            + self.method.spread_weight * self._measure_similarity(samples, labels)
        )
        self.generator_steps.zero_grad()
        torch.autograd.backward(loss, inputs=list(self.generator.parameters()))
        self.generator_steps.step()
        return decoded.detach()

    def _compute_critic_loss(self, samples: Tensor, codes: Tensor, marks: Tensor) -> Tensor:
        """Return the loss of the critic, with a penalty for gradients of another length than 1."""
        weight = torch.rand(len(codes), 1).to(codes)
        between = (weight * codes + (1 - weight) * samples).requires_grad_()
        value = self.critic(torch.cat([between, marks], 1)).sum()
        (gradient,) = torch.autograd.grad(value, between, create_graph=True)
        penalty = (gradient.norm(dim=1) - 1).square().mean()
        real, made = (self.critic(torch.cat([each, marks], 1)).mean() for each in (codes, samples))
        loss: Tensor = made - real + self.method.gradient_weight * penalty
        return loss

    def _follow_centres(self, codes: Tensor, labels: Targets) -> None:
        """Move the centre of each class of a batch a tenth of the way to the mean of its codes."""
        for label in set(labels.tolist()):
            self.centres[label] += 0.1 * (codes[labels == label].mean(0) - self.centres[label])

    def _measure_similarity(self, samples: Tensor, labels: Targets) -> Tensor:
        """Return the mean cosine of the directions of two samples of one class from its centre."""
        directions = F.normalize(samples - self.centres[labels], dim=1)
        pairs = (labels[:, None] == labels[None]).to(samples)
        pairs = pairs - torch.eye(len(labels)).to(samples)
        return (pairs * (directions @ directions.T)).sum() / pairs.sum().clamp(min=1)


def _build_layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN),
        nn.LeakyReLU(0.2),
        nn.Linear(HIDDEN, HIDDEN),
        nn.LeakyReLU(0.2),
        nn.Linear(HIDDEN, outputs),
    )


@final
@dataclass(frozen=True, eq=False)
class ConditionalGeneratorScorer(UnknownScorer):
    """A one-vs-all classifier that rejects generated samples.

    Args:
        method: the method.
        classifier: the classifier whose architecture it has.
        network: the one-vs-all classifier.
    """

    method: ConditionalGenerator
    classifier: Classifier
    network: CopiedNetwork

    def compute_scores(self, images: Images) -> Scores:
        logits = self.network(images)
        return (normalise_one_vs_all(logits) * (-logits).sigmoid()).sum(1)

    def compute_probabilities(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Return the fraction of each class in the one-vs-all probabilities."""
        return normalise_one_vs_all(self.network(images))

    def pack_tensors(self) -> dict[str, Tensor]:
        return self.network.pack()


def normalise_one_vs_all(logits: Tensor) -> Float[Tensor, "batch classes"]:
    """Return one-vs-all probabilities of logits, divided by their sum, `batch × classes`."""
    return F.logsigmoid(logits).softmax(1)
