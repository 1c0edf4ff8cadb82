"""The embedding phase: before any mask is drawn, the gate learns what each class looks like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from apercu.classifiers import Classifier
from apercu.classifiers.distillation_data import DistillationData, compute_agreement, stack_images
from apercu.explainers.class_embedding import (
    BinaryEmbedding,
    FeatureBatch,
    RidgeEmbedding,
    fit_ridge,
)
from apercu.networks.gate import GatedNetwork
from apercu.training.augment import RandomViews
from apercu.training.data import EndlessSampler, TrainingImages, cache_in_memory
from apercu.types import Images

FORWARD_BATCH = 8  # images per request in the passes that need no gradient

MAX_HELD_OUT_IMAGES = 512
"""Images that an encoder which learns does not see, at most; never more than a tenth of all."""

StepResult: TypeAlias = tuple[Tensor, Tensor]
"""The loss of one step, and for each of its images whether it was answered right."""


def shuffled_batches(
    images: TrainingImages, count: int, numbers: Iterable[int] | None = None
) -> Iterator[Images]:
    """Batches, all or some by number, of the first `count` images of a seeded shuffle."""
    numbers = range(-(-min(count, len(images)) // FORWARD_BATCH)) if numbers is None else numbers
    order = list(islice(EndlessSampler(len(images), seed=0), min(count, len(images))))
    for number in numbers:
        chosen = order[number * FORWARD_BATCH : (number + 1) * FORWARD_BATCH]
        yield torch.stack([images[index] for index in chosen])


def split_batches(count: int) -> tuple[list[int], list[int]]:
    """Numbers of the batches to fit on, and of those held out: every tenth, or the last of few.

    >>> every_tenth(12 * BATCH), every_tenth(3 * BATCH), every_tenth(BATCH)
    (([0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11], [9]), ([0, 1], [2]), ([0], []))
    """
    numbers = range(-(-count // FORWARD_BATCH))
    held_out = [n for n in numbers if n % 10 == 9] or list(numbers[1:][-1:])
    return [n for n in numbers if n not in held_out], held_out


@torch.no_grad()
def fit_ridge_embedding(
    network: GatedNetwork, classifier: Classifier, images: TrainingImages, settings: RidgeEmbedding
) -> float:
    """The embedding from all of the classifier's answers; returns the held-out agreement.

    The gate opens by the peaks on the images held out: on those that it was fitted to, an
    embedding peaks higher than on any other.
    """
    network.eval()
    device, count = next(network.parameters()).device, min(settings.images, len(images))
    fitted, held_out = split_batches(count)

    def asked(numbers: Iterable[int]) -> Iterator[FeatureBatch]:
        for batch in shuffled_batches(images, count, numbers):
            batch = batch.to(device)
            yield network.encoder(batch)[-1].mean((2, 3)), classifier(batch)

    share = fit_ridge(network.gate, asked(fitted), asked(held_out), settings.penalties)
    judges = shuffled_batches(images, count, held_out or fitted)
    network.gate.set_threshold(*_mean_peaks(network, classifier, judges))
    return share


def train_ridge_embedding(
    network: GatedNetwork,
    classifier: Classifier,
    images: TrainingImages,
    settings: RidgeEmbedding,
    seed: int,
) -> float:
    """Encoder and embedding from the answers, by descent; returns the held-out agreement.

    The classifier is asked once about each image and once about its mirror image. Both are then
    seen shifted a little, which leaves the answers as they are.
    """
    device, kept = next(network.parameters()).device, cache_in_memory(images)
    order = torch.tensor(list(islice(EndlessSampler(len(images), seed), len(images))))
    held_out = min(MAX_HELD_OUT_IMAGES, len(images) // 10)
    lessons = DistillationData.query_teacher(classifier, kept, order[held_out:], settings.batch)
    network.gate.set_logit_units(
        lessons.teacher_logits.mean().item(), lessons.teacher_logits.std().item()
    )

    def outcomes() -> Iterator[StepResult]:
        generator = torch.Generator().manual_seed(seed)
        for views, logits in lessons.draw_batches(settings.batch, generator):
            logits = logits.to(device)
            answers = network.gate.predict_logits(network.encode(views.to(device))[-1])
            loss = F.mse_loss(answers, network.gate.standardise(logits))
            yield loss, answers.argmax(1) == logits.argmax(1)

    descend(network, settings, outcomes())
    judged = torch.split(order[: max(held_out, FORWARD_BATCH)], FORWARD_BATCH)
    judges = [stack_images(kept, chosen).to(device) for chosen in judged]
    network.gate.set_threshold(*_mean_peaks(network, classifier, judges))
    if not held_out:
        return float("nan")
    return compute_agreement(
        lambda shown: network.gate.predict_logits(network.encode(shown)[-1]), classifier, judges
    )


def train_binary_embedding(
    network: GatedNetwork,
    classifier: Classifier,
    images: TrainingImages,
    settings: BinaryEmbedding,
    seed: int,
) -> float:
    """The published phase on single labels; returns the accuracy over its last tenth.

    The evidence that a class exists is its mean activation a: logits (−a/2, a/2), cross-entropy
    (the paper speaks of the maximum, the released code takes the mean).
    """
    device = next(network.parameters()).device
    order = EndlessSampler(len(images), seed)
    loader = DataLoader(images, settings.batch, sampler=order, num_workers=1)

    def outcomes() -> Iterator[StepResult]:
        for step, batch in enumerate(loader):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            views = RandomViews()(batch.to(device), generator)
            targets, real = _draw_targets(classifier, views, settings.fakes, generator)
            features = network.encode(views)[-1]
            existence = network.gate.compute_activation(features, targets).mean((1, 2, 3))
            loss = F.binary_cross_entropy_with_logits(existence, real.float())
            yield loss, (existence > 0) == real

    return descend(network, settings, outcomes())


def descend(
    network: GatedNetwork,
    settings: RidgeEmbedding | BinaryEmbedding,
    outcomes: Iterable[StepResult],
) -> float:
    """Descends for as many steps as set; returns the last tenth's share of right answers.

    Args:
        network: what is trained.
        settings: how long and how fast.
        outcomes: endless, and lazy: each is computed after the step on the one before.
    """
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = AdamW(trained, lr=settings.rate, weight_decay=1e-4)
    rate = OneCycleLR(optimiser, settings.rate, total_steps=settings.steps)
    right = []
    for loss, answered in islice(outcomes, settings.steps):
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        rate.step()
        right.append(answered.float().mean().item())
    last = right[-max(1, len(right) // 10) :]
    return sum(last) / len(last)


@torch.no_grad()
def _mean_peaks(
    network: GatedNetwork, classifier: Classifier, shown: Iterable[Images]
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
            found.append(network.gate.compute_activation(deepest, targets).amax((1, 2, 3)))
    return torch.cat(present).mean().item(), torch.cat(absent).mean().item()


@torch.no_grad()
def _draw_targets(
    classifier: Classifier, images: Images, fakes: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Targets, the top class or a fake one, and which of them are real."""
    true = classifier(images).argmax(1)
    shift = torch.randint(1, len(classifier.classes), (len(images),), generator=generator)
    real = torch.rand(len(images), generator=generator) >= fakes
    real, shift = real.to(true.device), shift.to(true.device)
    return torch.where(real, true, (true + shift) % len(classifier.classes)), real
