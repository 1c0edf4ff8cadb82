"""A small classifier of planted images, trained well enough to be explained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from apercu.classifiers import (
    Classifier,
    ClassifierCard,
    InputSpec,
    SmallResNet,
    wrap_module,
)
from apercu.devices import choose_memory_format
from apercu.images import Planted
from apercu.run_record import Phase
from apercu.training.augment import crop
from apercu.types import Boxes, Images, Targets

SOURCE = "apercu.classifiers.small_resnet:SmallResNet"


@dataclass(frozen=True)
class ClassifierTraining:
    """The settings of the training.

    Attributes:
        epochs: the number of passes over the images.
        batch: the number of images per step.
        rate: the highest learning rate of AdamW, in a one-cycle schedule.
        width: the number of channels of the network's stem.
        zoomed: the probability that an image is zoomed towards its object.
        tightness: how often a zoomed image is cut close to its object; at 1 every distance
            between the object and the image's edge is equally likely.
        seed: the seed of the first weights, the order and the views.
    """

    epochs: int = 8
    batch: int = 50
    rate: float = 5e-3
    width: int = 16
    zoomed: float = 0.7
    tightness: float = 2.5
    seed: int = 0


@dataclass(frozen=True, eq=False)
class LoadedImages:
    """A set in memory.

    Attributes:
        images: images in [0, 1].
        targets: the class of the first object of each image.
        boxes: the box around that object, as fractions of the image's sides.
    """

    images: Images
    targets: Targets
    boxes: Boxes


def train_classifier(
    source: Planted, training: ClassifierTraining, device: str, phase: Phase
) -> Classifier:
    """Train a `SmallResNet` that names the class of the first object.

    Args:
        source: the training images.
        training: the settings of the training.
        device: the device that computes.
        phase: reports the steps and keeps the state, from which the same call goes on.

    Returns:
        The classifier, on the device.

    Raises:
        RunError: the file of the state is damaged.
    """
    network = _build_network(source, training).to(device)
    train_network(network, load_images(source), training, phase)
    return wrap_module(network.cpu(), _build_card(source, training)).to(device)


def train_network(
    network: nn.Module,
    loaded: LoadedImages,
    training: ClassifierTraining,
    phase: Phase,
) -> None:
    """Train any network in place to name the class of the first object.

    The first steps are not done again where the phase has a state of them; the result is the same.

    Args:
        network: takes images from −1 to 1, and returns logits; on the device that computes.
        loaded: the training images.
        training: the settings of the training.
        phase: reports the steps and keeps the state.

    Raises:
        RunError: the file of the state is damaged.
    """
    device, memory_format = next(network.parameters()).device, choose_memory_format(network)
    network.to(memory_format=memory_format)
    total = training.epochs * (len(loaded.images) // training.batch)
    optimiser = AdamW(network.parameters(), training.rate, weight_decay=0.02)
    schedule = OneCycleLR(optimiser, training.rate, total_steps=total)
    parts: dict[str, Any] = {"network": network, "optimiser": optimiser, "schedule": schedule}
    state = phase.load()
    first = done = state["step"] if state else 0
    for name, part in parts.items():
        if state:
            part.load_state_dict(state[name])
    phase.note(done, total)

    def make_state() -> dict[str, Any]:
        return {"step": done, **{name: part.state_dict() for name, part in parts.items()}}

    network.train()
    batches = _iterate_batches(loaded, training, first)
    for done, batch in zip(range(first + 1, total + 1), batches, strict=False):
        images, targets = (tensor.to(device) for tensor in batch)
        images = (images - 0.5).contiguous(memory_format=memory_format) * 2
        loss = F.cross_entropy(network(images), targets)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        phase.note(done, total, make_state)


def measure_accuracy(classifier: Classifier, source: Planted) -> float:
    """Return the fraction of the images whose class is predicted."""
    test = load_images(source)
    with torch.no_grad():
        parts = torch.split(test.images, 100)
        logits = torch.cat([classifier(part.to(classifier.device)) for part in parts])
    return float((logits.argmax(1).cpu() == test.targets).float().mean())


def load_images(source: Planted) -> LoadedImages:
    """Load all images of a set into memory."""
    items, names = list(source), source.class_names
    return LoadedImages(
        torch.stack([item.picture for item in items]),
        torch.tensor([names.index(str(item.label)) for item in items]),
        torch.cat([item.boxes for item in items if item.boxes is not None]) / source.size,
    )


def _iterate_batches(
    loaded: LoadedImages, training: ClassifierTraining, skipped: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end, in a new order per epoch, mirrored and zoomed at random.

    The first ones are drawn, but neither made nor yielded.

    A zoomed image still holds the whole object, so the classifier learns objects of every size.
    """
    generator = Generator().manual_seed(training.seed)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
    while True:
        order = torch.randperm(len(loaded.images), generator=generator)
        for rows in torch.split(order, training.batch):
            if len(rows) < training.batch:
                continue
            draws = torch.rand(len(rows), 6, generator=generator)
            if skipped > 0:
                skipped -= 1
                continue
            near, far = loaded.boxes[rows, :2], loaded.boxes[rows, 2:]
            distances = draws[:, :4] ** (1 / training.tightness)
            zoomed = torch.cat([near * distances[:, :2], 1 - (1 - far) * distances[:, 2:]], 1)
            boxes = torch.where(draws[:, 4:5] < training.zoomed, zoomed, whole)
            views = crop(loaded.images[rows], boxes)
            is_mirrored = draws[:, 5, None, None, None] < 0.5
            yield torch.where(is_mirrored, views.flip(3), views), loaded.targets[rows]


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
