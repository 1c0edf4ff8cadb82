"""The embedding phase: before the explainer itself is trained, its gate learns the classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
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
from apercu.io import write_file
from apercu.networks.gate import GatedNetwork
from apercu.training.augment import RandomViews
from apercu.training.data import (
    FORWARD_BATCH,
    EndlessSampler,
    TrainingImages,
    cache_in_memory,
    iterate_batches,
)
from apercu.types import Images

EMBEDDED = "embedded.safetensors"
"""File of the phase's result, in the folder of the checkpoints."""

MAX_HELD_OUT_IMAGES = 512
"""Images that a trained encoder does not see, at most; never more than a tenth of all."""

StepResult: TypeAlias = tuple[Tensor, Tensor]
"""The loss of one step, and for each of its images whether it was predicted right."""


@dataclass(frozen=True)
class EmbeddingPhase:
    """Trains the class embedding of a network, or reads the stored result of an earlier run.

    Args:
        classifier: the classifier that teaches the classes.
        images: the training images.
        seed: seed of all draws.
        folder: folder in which the result is kept, so that a resumed training reads it.
        say: receives one message.
    """

    classifier: Classifier
    images: TrainingImages
    seed: int
    folder: Path
    say: Callable[[str], None] = field(repr=False)

    def run(
        self, network: GatedNetwork, settings: RidgeEmbedding | BinaryEmbedding
    ) -> dict[str, float]:
        """Train embedding and encoder in place, and freeze both.

        Args:
            network: the network, as it was built.
            settings: how the embedding is learned.

        Returns:
            `embedding_agreement`, the fraction of images whose class the embedding predicts right.
        """
        path = self.folder / EMBEDDED
        if path.is_file():
            state = load_file(path)
            agreement = float(state.pop("agreement").item())
            network.load_state_dict(state, strict=False)
        else:
            agreement = self._train(network, settings)
            state = network.state_without_frozen_encoder()
            write_file(path, save(state | {"agreement": torch.tensor(agreement)}))
        network.freeze_encoder()
        return {"embedding_agreement": agreement}

    def _train(self, network: GatedNetwork, settings: RidgeEmbedding | BinaryEmbedding) -> float:
        if isinstance(settings, BinaryEmbedding):
            accuracy = train_binary_embedding(
                network, self.classifier, self.images, settings, self.seed
            )
            self.say(
                f"class embedding: separates real from fake classes in {accuracy:.1%} of cases"
            )
            return accuracy
        if network.frozen:
            agreement = fit_ridge_embedding(network, self.classifier, self.images, settings)
        else:
            agreement = train_ridge_embedding(
                network, self.classifier, self.images, settings, self.seed
            )
        measured = agreement == agreement  # NaN where no image was held out
        held_out = f"in {agreement:.1%} of cases" if measured else "(too few to hold some out)"
        self.say(f"class embedding: predicts the classifier's top class {held_out}")
        return agreement


@torch.no_grad()
def fit_ridge_embedding(
    network: GatedNetwork, classifier: Classifier, images: TrainingImages, settings: RidgeEmbedding
) -> float:
    """Fit the embedding to all of the classifier's logits; the encoder stays as it is.

    The gate's threshold comes from the peaks on images held out: on those that it was fitted to, an
    embedding peaks higher than on any other.

    Returns:
        Fraction of held-out images for which embedding and classifier predict the same class.
    """
    network.eval()
    device, count = next(network.parameters()).device, min(settings.images, len(images))
    fitted, held_out = split_batches(count)

    def features(numbers: Iterable[int]) -> Iterator[FeatureBatch]:
        for batch in iterate_batches(images, count, numbers):
            batch = batch.to(device)
            yield FeatureBatch(network.encoder(batch)[-1].mean((2, 3)), classifier(batch))

    agreement = fit_ridge(network.gate, features(fitted), features(held_out), settings.penalties)
    unseen = iterate_batches(images, count, held_out or fitted)
    network.gate.set_threshold(*_measure_peaks(network, classifier, unseen))
    return agreement


def train_ridge_embedding(
    network: GatedNetwork,
    classifier: Classifier,
    images: TrainingImages,
    settings: RidgeEmbedding,
    seed: int,
) -> float:
    """Train encoder and embedding to predict the classifier's logits, by gradient descent.

    The classifier predicts each image and its mirror image once. The network sees both shifted a
    little, which leaves the logits as they are.

    Returns:
        Fraction of held-out images for which embedding and classifier predict the same class; NaN
        where there are too few images to hold some out.
    """
    device, cached = next(network.parameters()).device, cache_in_memory(images)
    order = torch.tensor(list(islice(EndlessSampler(len(images), seed), len(images))))
    held_out = min(MAX_HELD_OUT_IMAGES, len(images) // 10)
    data = DistillationData.query_teacher(classifier, cached, order[held_out:], settings.batch)
    network.gate.set_logit_units(
        data.teacher_logits.mean().item(), data.teacher_logits.std().item()
    )

    def predict(views: Images) -> Tensor:
        return network.gate.predict_logits(network.encode(views)[-1])

    def steps() -> Iterator[StepResult]:
        generator = torch.Generator().manual_seed(seed)
        for views, logits in data.draw_batches(settings.batch, generator):
            logits = logits.to(device)
            predicted = predict(views.to(device))
            loss = F.mse_loss(predicted, network.gate.standardise(logits))
            yield loss, predicted.argmax(1) == logits.argmax(1)

    descend(network, settings, steps())
    chunks = torch.split(order[: max(held_out, FORWARD_BATCH)], FORWARD_BATCH)
    unseen = [stack_images(cached, indices).to(device) for indices in chunks]
    network.gate.set_threshold(*_measure_peaks(network, classifier, unseen))
    return compute_agreement(predict, classifier, unseen) if held_out else float("nan")


def train_binary_embedding(
    network: GatedNetwork,
    classifier: Classifier,
    images: TrainingImages,
    settings: BinaryEmbedding,
    seed: int,
) -> float:
    """Train encoder and embedding to separate real from fake classes, as published.

    The evidence that a class exists is its mean activation a: logits (−a/2, a/2), cross-entropy
    (the paper speaks of the maximum, the released code takes the mean).

    Returns:
        The accuracy over the last tenth of the steps.
    """
    device = next(network.parameters()).device
    order = EndlessSampler(len(images), seed)
    loader = DataLoader(images, settings.batch, sampler=order, num_workers=1)

    def steps() -> Iterator[StepResult]:
        for step, batch in enumerate(loader):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            views = RandomViews()(batch.to(device), generator)
            targets, real = _draw_targets(classifier, views, settings.fakes, generator)
            features = network.encode(views)[-1]
            existence = network.gate.compute_activation(features, targets).mean((1, 2, 3))
            loss = F.binary_cross_entropy_with_logits(existence, real.float())
            yield loss, (existence > 0) == real

    return descend(network, settings, steps())


def descend(
    network: GatedNetwork,
    settings: RidgeEmbedding | BinaryEmbedding,
    results: Iterable[StepResult],
) -> float:
    """Run the optimiser for the number of steps in the settings.

    Args:
        network: the network that is trained.
        settings: number of steps and learning rate.
        results: endless losses; each is computed only after the step before it.

    Returns:
        Fraction of images predicted right over the last tenth of the steps.
    """
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = AdamW(trained, lr=settings.rate, weight_decay=1e-4)
    rate = OneCycleLR(optimiser, settings.rate, total_steps=settings.steps)
    accuracies = []
    for loss, correct in islice(results, settings.steps):
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        rate.step()
        accuracies.append(correct.float().mean().item())
    last = accuracies[-max(1, len(accuracies) // 10) :]
    return sum(last) / len(last)


def split_batches(count: int) -> tuple[list[int], list[int]]:
    """Return numbers of batches to fit on, and of those held out: every tenth, or the last of few.

    >>> split_batches(12 * FORWARD_BATCH)
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11], [9])
    >>> split_batches(3 * FORWARD_BATCH), split_batches(FORWARD_BATCH)
    (([0, 1], [2]), ([0], []))
    """
    numbers = range(-(-count // FORWARD_BATCH))
    held_out = [n for n in numbers if n % 10 == 9] or list(numbers[1:][-1:])
    return [n for n in numbers if n not in held_out], held_out


@torch.no_grad()
def _measure_peaks(
    network: GatedNetwork, classifier: Classifier, batches: Iterable[Images]
) -> tuple[float, float]:
    """Return the mean highest activation of the classifier's top class, and of any other class."""
    network.eval()
    present: list[Tensor] = []
    absent: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        batch = batch.to(classifier.device)
        deepest, top = network.encode(batch)[-1], classifier(batch).argmax(1)
        shift = torch.randint(1, len(classifier.classes), top.shape, generator=generator)
        other = (top + shift.to(top.device)) % len(classifier.classes)
        for peaks, targets in ((present, top), (absent, other)):
            peaks.append(network.gate.compute_activation(deepest, targets).amax((1, 2, 3)))
    return torch.cat(present).mean().item(), torch.cat(absent).mean().item()


@torch.no_grad()
def _draw_targets(
    classifier: Classifier, images: Images, negative_rate: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw targets, the top class or a fake one, and return which of them are real."""
    top = classifier(images).argmax(1)
    shift = torch.randint(1, len(classifier.classes), (len(images),), generator=generator)
    real = torch.rand(len(images), generator=generator) >= negative_rate
    real, shift = real.to(top.device), shift.to(top.device)
    return torch.where(real, top, (top + shift) % len(classifier.classes)), real
