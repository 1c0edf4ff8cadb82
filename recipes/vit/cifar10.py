"""A small vision transformer for CIFAR-10, distilled from a ResNet-20.

    python recipes/vit/cifar10.py TEACHER TRAIN TEST OUT [--epochs N] [--seed N]

TEACHER is a classifier of the ten classes, TRAIN and TEST are Parquet files. 32 × 32 pixels,
patches of 4, six blocks of four heads. Images are mirrored, shifted, and mixed in pairs; the
targets are the probabilities of the teacher, so no label is needed. Leaves a classifier card with
weights, and `facts.json`, in OUT; an interrupted training goes on. About 80 minutes of one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from planted import write_facts
from torch import Generator, Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from apercu.classifiers import (
    Classifier,
    ClassifierCard,
    InputSpec,
    open_classifier,
    save_classifier,
    wrap_module,
)
from apercu.images import open_images

SOURCE = "timm/vit_tiny_patch16_224"
OPTIONS = {
    **{"img_size": 32, "patch_size": 4, "embed_dim": 128, "depth": 6, "num_heads": 4},
    **{"global_pool": "avg", "class_token": False},
}
BATCH = 100
SHIFT = 4


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("teacher", "train", "test"):
        words.add_argument(name)
    words.add_argument("out", type=Path)
    words.add_argument("--epochs", type=int, default=24)
    words.add_argument("--seed", type=int, default=0)
    arguments = words.parse_args()
    start = time.monotonic()
    teacher = open_classifier(arguments.teacher)
    images, _ = load_images(arguments.train, teacher)
    network = train(teacher, images, arguments.epochs, arguments.seed, arguments.out)
    half = (0.5,) * 3
    card = ClassifierCard(
        source=SOURCE,
        options=OPTIONS | {"num_classes": len(teacher.classes)},
        input=InputSpec(size=(32, 32), mean=half, std=half),
        classes=teacher.classes,
    )
    classifier = wrap_module(network, card)
    save_classifier(classifier, arguments.out)
    images, targets = load_images(arguments.test, teacher)
    write_facts(
        arguments.out,
        start,
        accuracy=measure_accuracy(classifier, images, targets),
        accuracy_of_teacher=measure_accuracy(teacher, images, targets),
        test=len(images),
        epochs=arguments.epochs,
        weights=sum(weight.numel() for weight in network.parameters()),
        seed=arguments.seed,
    )


def load_images(path: str, teacher: Classifier) -> tuple[Tensor, Tensor]:
    """Load all images of a Parquet file, and the classes that they are labelled with."""
    items = list(open_images(path))
    targets = [teacher.index_of(str(item.label)) for item in items]
    return torch.stack([item.picture for item in items]), torch.tensor(targets)


def train(
    teacher: Classifier, images: Tensor, epochs: int, seed: int, out: Path
) -> torch.nn.Module:
    """Train a transformer to have the teacher's probabilities; its state is kept every epoch."""
    torch.manual_seed(seed)
    network = timm.create_model(
        SOURCE.removeprefix("timm/"), num_classes=len(teacher.classes), **OPTIONS
    )
    steps = len(images) // BATCH
    optimiser = AdamW(network.parameters(), 1.5e-3, weight_decay=0.05)
    schedule = OneCycleLR(optimiser, 1.5e-3, total_steps=epochs * steps)
    state_file, first = out / "training.pt", 0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    out.mkdir(parents=True, exist_ok=True)
    for epoch in range(first, epochs):
        network.train()
        total = 0.0
        for views in make_batches(images, Generator().manual_seed(1000 * seed + epoch)):
            with torch.no_grad():
                expected = teacher.predict_probabilities(views)
            loss = F.cross_entropy(network((views - 0.5) * 2), expected)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += loss.item() / steps
        print(f"epoch {epoch + 1} of {epochs}: loss {total:.3f}", flush=True)
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        torch.save(state | {"schedule": schedule.state_dict(), "epoch": epoch + 1}, state_file)
    state_file.unlink(missing_ok=True)
    return network.eval()


def make_batches(images: Tensor, generator: Generator) -> Iterator[Tensor]:
    """Yield each image once: mirrored and shifted at random, every second batch mixed in pairs."""
    padded = F.pad(images, (SHIFT,) * 4, mode="reflect")
    side = images.shape[-1]
    order = torch.randperm(len(images), generator=generator)
    for number, rows in enumerate(torch.split(order, BATCH)):
        if len(rows) < BATCH:
            return
        corners = torch.randint(2 * SHIFT + 1, (len(rows), 2), generator=generator).tolist()
        cut = [
            padded[r, :, y : y + side, x : x + side]
            for r, (y, x) in zip(rows, corners, strict=True)
        ]
        views = torch.stack(cut)
        is_mirrored = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
        views = torch.where(is_mirrored, views.flip(3), views)
        if number % 2:
            share = torch.rand(len(rows), 1, 1, 1, generator=generator)
            views = share * views + (1 - share) * views.roll(1, 0)
        yield views


def measure_accuracy(classifier: Classifier, images: Tensor, targets: Tensor) -> float:
    """Return the fraction of the images whose class is predicted."""
    with torch.no_grad():
        logits = torch.cat([classifier(part) for part in torch.split(images, 200)])
    return round(float((logits.argmax(1) == targets).float().mean()), 3)


if __name__ == "__main__":
    main()
