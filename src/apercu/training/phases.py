"""The embedding phase: before any mask is drawn, the gate learns what each class looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from apercu.classifiers import Classifier
from apercu.networks.masking import MaskingNetwork
from apercu.training.augment import Views
from apercu.training.embedding import Answers, Labels, fit_answers
from apercu.training.stream import EndlessOrder, TrainingImages
from apercu.types import Images

BATCH = 8  # images per request in the passes that need no gradient


def batches(images: TrainingImages, count: int) -> Iterator[Images]:
    """The first `count` images of a seeded shuffle, in batches."""
    order = iter(EndlessOrder(len(images), seed=0))
    left = min(count, len(images))
    while left > 0:
        size = min(BATCH, left)
        yield torch.stack([images[next(order)] for _ in range(size)])
        left -= size


@torch.no_grad()
def embed_answers(
    network: MaskingNetwork, classifier: Classifier, images: TrainingImages, settings: Answers
) -> float:
    """The embedding from all of the classifier's answers; returns the held-out agreement."""
    network.eval()
    device = next(network.parameters()).device
    share = fit_answers(
        network.gate,
        (batch.to(device) for batch in batches(images, settings.images)),
        lambda batch: network.encoder(batch)[-1],
        classifier,
        settings.penalty,
    )
    network.gate.open_at(*_peaks(network, classifier, images))
    return share


def learn_answers(
    network: MaskingNetwork,
    classifier: Classifier,
    images: TrainingImages,
    settings: Answers,
    seed: int,
) -> float:
    """Encoder and embedding from the answers, by descent; returns the last tenth's agreement."""
    network.gate.set_units(*_spread(classifier, images))
    descent = Descent(settings.steps, settings.batch, settings.rate, seed)

    def step(views: Images, generator: Generator) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits = classifier(views)
        answers = network.gate.answers(network.encode(views)[-1])
        loss = F.mse_loss(answers, network.gate.standardised(logits))
        return loss, answers.argmax(1) == logits.argmax(1)

    share = descend(network, images, descent, step)
    network.gate.open_at(*_peaks(network, classifier, images))
    return share


def embed_labels(
    network: MaskingNetwork,
    classifier: Classifier,
    images: TrainingImages,
    settings: Labels,
    seed: int,
) -> float:
    """The published phase on single labels; returns the accuracy over its last tenth.

    The evidence that a class exists is its mean activation a: logits (−a/2, a/2), cross-entropy
    (the paper speaks of the maximum, the released code takes the mean).
    """
    descent = Descent(settings.steps, settings.batch, settings.rate, seed)

    def step(views: Images, generator: Generator) -> tuple[Tensor, Tensor]:
        targets, real = _labels(classifier, views, settings.fakes, generator)
        features = network.encode(views)[-1]
        existence = network.gate.activation(features, targets).mean((1, 2, 3))
        loss = F.binary_cross_entropy_with_logits(existence, real.float())
        return loss, (existence > 0) == real

    return descend(network, images, descent, step)


@dataclass(frozen=True)
class Descent:
    """Steps, images per step, highest learning rate, seed."""

    steps: int
    batch: int
    rate: float
    seed: int


def descend(
    network: MaskingNetwork,
    images: TrainingImages,
    descent: Descent,
    step: Callable[[Images, Generator], tuple[Tensor, Tensor]],
) -> float:
    """Runs `step` on random views until its end; returns the last tenth's share of right answers.

    Args:
        network: what is trained.
        images: where views come from.
        descent: how long and how fast.
        step: views and a generator → the loss, and which images were answered right.
    """
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = AdamW(trained, lr=descent.rate, weight_decay=1e-4)
    rate = OneCycleLR(optimiser, descent.rate, total_steps=descent.steps)
    order = EndlessOrder(len(images), descent.seed)
    loader = DataLoader(images, descent.batch, sampler=order, num_workers=1)
    device, right = next(network.parameters()).device, []
    for index, batch in zip(range(descent.steps), loader, strict=False):
        generator = torch.Generator().manual_seed(descent.seed * 1_000_003 + index)
        loss, answered = step(Views()(batch.to(device), generator), generator)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        rate.step()
        right.append(answered.float().mean().item())
    last = right[-max(1, len(right) // 10) :]
    return sum(last) / len(last)


@torch.no_grad()
def _spread(classifier: Classifier, images: TrainingImages) -> tuple[float, float]:
    """Mean and standard deviation of the logits on a few images."""
    device = classifier.device
    logits = torch.cat([classifier(batch.to(device)) for batch in batches(images, 256)])
    return logits.mean().item(), logits.std().item()


@torch.no_grad()
def _peaks(
    network: MaskingNetwork, classifier: Classifier, images: TrainingImages
) -> tuple[float, float]:
    """Mean highest activation of the classifier's top class, and of any other, on a few images."""
    network.eval()
    present: list[Tensor] = []
    absent: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for batch in batches(images, 256):
        batch = batch.to(classifier.device)
        deepest, top = network.encode(batch)[-1], classifier(batch).argmax(1)
        shift = torch.randint(1, len(classifier.classes), top.shape, generator=generator)
        other = (top + shift.to(top.device)) % len(classifier.classes)
        for found, targets in ((present, top), (absent, other)):
            found.append(network.gate.activation(deepest, targets).amax((1, 2, 3)))
    return torch.cat(present).mean().item(), torch.cat(absent).mean().item()


@torch.no_grad()
def _labels(
    classifier: Classifier, images: Images, fakes: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Targets, the top class or a fake one, and which of them are real."""
    true = classifier(images).argmax(1)
    shift = torch.randint(1, len(classifier.classes), (len(images),), generator=generator)
    real = torch.rand(len(images), generator=generator) >= fakes
    real, shift = real.to(true.device), shift.to(true.device)
    return torch.where(real, true, (true + shift) % len(classifier.classes)), real
