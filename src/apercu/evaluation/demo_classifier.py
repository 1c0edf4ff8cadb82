"""A small classifier of a labelled source, trained until it deserves to be explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from apercu.classifiers import (
    Classifier,
    ClassifierCard,
    InputSpec,
    SmallResNet,
    wrap_module,
)
from apercu.images import Planted
from apercu.training.augment import crop
from apercu.types import Boxes, Images, Targets

SOURCE = "apercu.classifiers.small_resnet:SmallResNet"


@dataclass(frozen=True)
class ClassifierTraining:
    """How the classifier is trained.

    Args:
        epochs: passes over the images.
        batch: images per step.
        rate: highest learning rate of AdamW, reached after a rise and annealed.
        width: channels of the network's stem.
        zoomed: probability that an image is zoomed towards its object.
        tightness: how often a zoomed image is cut close to its object; at 1 every distance
            between the object and the image's edge is equally likely.
        seed: of the first weights, the order and the views.
    """

    epochs: int = 8
    batch: int = 50
    rate: float = 5e-3
    width: int = 16
    zoomed: float = 0.7
    tightness: float = 2.5
    seed: int = 0


def train_classifier(
    source: Planted, training: ClassifierTraining, device: str, progress: Callable[[int, int], None]
) -> Classifier:
    """A `SmallResNet` that names the class of the first object.

    Args:
        source: training images.
        lessons: how long and how fast.
        device: where to compute.
        progress: told the steps done, and how many there are.
    """
    lesson = load_images(source)
    network = _build_network(source, training).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    total = training.epochs * (len(lesson.images) // training.batch)
    optimiser = AdamW(network.parameters(), training.rate, weight_decay=0.02)
    rate = OneCycleLR(optimiser, training.rate, total_steps=total)
    network.train()
    for step, chosen in zip(range(total), _iterate_batches(lesson, training), strict=False):
        shown, wanted = (tensor.to(device) for tensor in chosen)
        shown = (shown - 0.5).contiguous(memory_format=torch.channels_last) * 2
        loss = F.cross_entropy(network(shown), wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        rate.step()
        progress(step + 1, total)
    return wrap_module(network.cpu(), _build_card(source, training)).to(device)


def measure_accuracy(classifier: Classifier, source: Planted) -> float:
    """Share of the images whose class is named."""
    test = load_images(source)
    with torch.no_grad():
        parts = torch.split(test.images, 100)
        found = torch.cat([classifier(part.to(classifier.device)) for part in parts])
    return float((found.argmax(1).cpu() == test.targets).float().mean())


@dataclass(frozen=True, eq=False)
class LoadedImages:
    """A set in memory; boxes around the first objects, as shares of the image's sides."""

    images: Images
    targets: Targets
    boxes: Boxes


def load_images(source: Planted) -> LoadedImages:
    """All images of a set."""
    items, names = list(source), source.class_names
    return LoadedImages(
        torch.stack([item.picture for item in items]),
        torch.tensor([names.index(str(item.label)) for item in items]),
        torch.cat([item.boxes for item in items if item.boxes is not None]) / source.size,
    )


def _iterate_batches(
    loaded: LoadedImages, training: ClassifierTraining
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches in a fresh order per epoch, mirrored and zoomed at random.

    A zoomed image still holds the whole object, so the classifier knows objects of every size.
    """
    generator = Generator().manual_seed(training.seed)
    while True:
        order = torch.randperm(len(loaded.images), generator=generator)
        for chosen in torch.split(order, training.batch):
            if len(chosen) < training.batch:
                continue
            draws = torch.rand(len(chosen), 6, generator=generator)
            near, far = loaded.boxes[chosen, :2], loaded.boxes[chosen, 2:]
            drawn = draws[:, :4] ** (1 / training.tightness)
            zoomed = torch.cat([near * drawn[:, :2], 1 - (1 - far) * drawn[:, 2:]], 1)
            whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
            places = torch.where(draws[:, 4:5] < training.zoomed, zoomed, whole)
            shown = crop(loaded.images[chosen], places)
            mirrored = draws[:, 5, None, None, None] < 0.5
            yield torch.where(mirrored, shown.flip(3), shown), loaded.targets[chosen]


def _build_network(source: Planted, training: ClassifierTraining) -> SmallResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        return SmallResNet(
            source.channels, source.classes, (source.size, source.size), training.width
        )


def _build_card(source: Planted, training: ClassifierTraining) -> ClassifierCard:
    half = (0.5,) * source.channels
    size = (source.size, source.size)
    return ClassifierCard(
        source=SOURCE,
        options={
            "channels": source.channels,
            "classes": source.classes,
            "size": list(size),
            "width": training.width,
        },
        input=InputSpec(channels=source.channels, size=size, mean=half, std=half),
        classes=source.class_names,
    )
