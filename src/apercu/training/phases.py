"""The embedding phase: before any mask is drawn, the gate learns what each class looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from apercu.classifiers import Classifier
from apercu.networks.masking import MaskingNetwork
from apercu.training.augment import Views
from apercu.training.embedding import Answers, Asked, Labels, fit_answers
from apercu.training.stream import EndlessOrder, TrainingImages
from apercu.types import Images

BATCH = 8  # images per request in the passes that need no gradient


def batches(
    images: TrainingImages, count: int, numbers: Iterable[int] | None = None
) -> Iterator[Images]:
    """Batches, all or some by number, of the first `count` images of a seeded shuffle."""
    numbers = range(-(-min(count, len(images)) // BATCH)) if numbers is None else numbers
    order = list(islice(EndlessOrder(len(images), seed=0), min(count, len(images))))
    for number in numbers:
        chosen = order[number * BATCH : (number + 1) * BATCH]
        yield torch.stack([images[index] for index in chosen])


def every_tenth(count: int) -> tuple[list[int], list[int]]:
    """Numbers of the batches to fit on, and of those held out: every tenth, or the last of few.

    >>> every_tenth(12 * BATCH), every_tenth(3 * BATCH), every_tenth(BATCH)
    (([0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11], [9]), ([0, 1], [2]), ([0], []))
    """
    numbers = range(-(-count // BATCH))
    held_out = [n for n in numbers if n % 10 == 9] or list(numbers[1:][-1:])
    return [n for n in numbers if n not in held_out], held_out


@torch.no_grad()
def embed_answers(
    network: MaskingNetwork, classifier: Classifier, images: TrainingImages, settings: Answers
) -> float:
    """The embedding from all of the classifier's answers; returns the held-out agreement.

    The gate opens by the peaks on the images held out: on those that it was fitted to, an
    embedding peaks higher than on any other.
    """
    network.eval()
    device, count = next(network.parameters()).device, min(settings.images, len(images))
    fitted, held_out = every_tenth(count)

    def asked(numbers: Iterable[int]) -> Iterator[Asked]:
        for batch in batches(images, count, numbers):
            batch = batch.to(device)
            yield network.encoder(batch)[-1].mean((2, 3)), classifier(batch)

    share = fit_answers(network.gate, asked(fitted), asked(held_out), settings.penalties)
    judges = batches(images, count, held_out or fitted)
    network.gate.open_at(*_peaks(network, classifier, judges))
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
    network.gate.open_at(*_peaks(network, classifier, _few(images)))
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
    logits = torch.cat([classifier(batch.to(device)) for batch in _few(images)])
    return logits.mean().item(), logits.std().item()


def _few(images: TrainingImages) -> Iterator[Images]:
    """At most 256 images, in batches."""
    return batches(images, 256)


@torch.no_grad()
def _peaks(
    network: MaskingNetwork, classifier: Classifier, shown: Iterable[Images]
) -> tuple[float, float]:
    """Mean highest activation of the classifier's top class, and of any other."""
    network.eval()
    present: list[Tensor] = []
    absent: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for batch in shown:
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
