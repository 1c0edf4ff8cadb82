"""Do masks show what the classifier looks at, or merely objects? Classifiers that look elsewhere.

    python recipes/evidence/study.py OUT [--steps N] [--seed N]

Planted images of 64 pixels: six patterns, and in one corner a tag of one of six colours. Four
classifiers are trained or changed, each is explained by the same recipe, and the masks of its own
predictions are measured on 400 other images, where tag and pattern never say the same class:

- `pattern` names the pattern; tags mean nothing while it learns;
- `tag` learns where tags and patterns agree, and takes the shortcut;
- `permuted` is `pattern` with the numbers of each of its tensors in random order;
- `permuted, other encoder` is the same, explained through the features of `pattern`, with which an
  explainer could find objects.

Leaves cards, runs, `evidence.json`, `table.md` and `evidence.png` in OUT. What is finished is not
done again.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import torch
from permute import permute_weights

import apercu
from apercu import MaskExplainer, metrics, render
from apercu.classifiers import (
    Classifier,
    ClassifierCard,
    InputSpec,
    SmallResNet,
    open_classifier,
    save_classifier,
    wrap_module,
)
from apercu.evaluation.demo_classifier import (
    SOURCE,
    ClassifierTraining,
    LoadedImages,
    load_images,
    train_network,
)
from apercu.images import ImageSource, Planted
from apercu.images.source import Item
from apercu.run_record import Phase
from apercu.statistics import bootstrap_interval

TAG_SIDE = 10
COLOURS = torch.tensor(
    [[0.9, 0.1, 0.1], [0.1, 0.8, 0.1], [0.15, 0.25, 0.95], [0.9, 0.85, 0.1], [0.85, 0.1, 0.85],
     [0.1, 0.85, 0.85]]
)  # fmt: skip
TRAINING = ClassifierTraining(epochs=8, zoomed=0.0)  # a zoomed image would lose its tag
SETTINGS = {"preset": "light", "schedule": {"batch": 32}}


@dataclass(frozen=True)
class TaggedImages(ImageSource):
    """Planted images with a coloured tag in one corner.

    Attributes:
        planted: the images without tags.
        tags: `agree` for the tag of the label, `random` for any tag, `differ` for another one.
    """

    planted: Planted
    tags: str

    @property
    def name(self) -> str:
        return f"{self.planted.name},tags={self.tags}"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.planted.class_names

    @property
    def labelled(self) -> bool:
        return True

    @property
    def names(self) -> tuple[str, ...]:
        return self.planted.names

    def __len__(self) -> int:
        return len(self.planted)

    def __getitem__(self, index: int) -> Item:
        item = self.planted[index]
        tag, rows, columns = self.choose_tag(index, self.class_names.index(str(item.label)))
        picture = item.picture.clone()
        picture[:, rows, columns] = COLOURS[tag][:, None, None]
        return replace(item, picture=picture)

    def choose_tag(self, index: int, label: int) -> tuple[int, slice, slice]:
        """Choose the class of a tag and its corner: slices of rows and columns."""
        draws = torch.rand(3, generator=torch.Generator().manual_seed(index))
        count = self.planted.classes
        shifts = {
            "agree": 0,
            "random": int(draws[0] * count),
            "differ": 1 + int(draws[0] * (count - 1)),
        }
        row, column = (int(draw * 2) * (self.planted.size - TAG_SIDE) for draw in draws[1:])
        corner = slice(row, row + TAG_SIDE), slice(column, column + TAG_SIDE)
        return (label + shifts[self.tags]) % count, *corner


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("out", type=Path)
    words.add_argument("--steps", type=int, default=300)
    words.add_argument("--images", type=int, default=4000)
    words.add_argument("--seed", type=int, default=0)
    arguments = words.parse_args()
    torch.set_num_threads(1)
    planted = Planted(images=arguments.images)
    random, agree = TaggedImages(planted, "random"), TaggedImages(planted, "agree")
    test = TaggedImages(replace(planted, images=400, split="test"), "differ")
    training = replace(TRAINING, seed=arguments.seed)
    out = arguments.out
    pattern = open_or_make(out / "pattern", lambda: learn(random, training))
    tag = open_or_make(out / "tag", lambda: learn(agree, training))
    card = out / "pattern" / "card.json"
    permuted = open_or_make(out / "permuted", lambda: permute_weights(card, arguments.seed))
    rows, sheet = {}, []
    for name, classifier, images, encoder in (
        ("pattern", pattern, random, None),
        ("tag", tag, agree, None),
        ("permuted", permuted, random, None),
        ("permuted, other encoder", permuted, random, str(card)),
    ):
        run = out / f"{name.replace(', ', '-').replace(' ', '-')}-mask"
        if not (run / "weights.safetensors").is_file():
            apercu.train(
                classifier, images, run, config=SETTINGS, steps=arguments.steps, encoder=encoder,
                seed=arguments.seed, resume=True, device="cpu", workers=0, trust=True,
            )  # fmt: skip
        rows[name], tiles = measure_masks(classifier, apercu.load_explainer(run, trust=True), test)
        sheet.append(tiles)
        print(name, rows[name], flush=True)
    facts = {
        "rows": rows, "test": test.name, "steps": arguments.steps, "seed": arguments.seed,
        "machine": platform.machine(), "date": str(date.today()),
    }  # fmt: skip
    (out / "evidence.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    write_table(rows, out / "table.md")
    render.save_image(out / "evidence.png", render.draw_contact_sheet(sheet, 128))


def open_or_make(folder: Path, make: Callable[[], Classifier]) -> Classifier:
    """Open the classifier of a folder, or make it and save it there."""
    if not (folder / "card.json").is_file():
        save_classifier(make(), folder)
    return open_classifier(folder / "card.json", trust=True)


def learn(source: TaggedImages, training: ClassifierTraining) -> Classifier:
    """Train a classifier on images with tags."""
    planted = source.planted
    plain = load_images(planted)
    loaded = LoadedImages(
        torch.stack([item.picture for item in source]), plain.targets, plain.boxes
    )
    torch.manual_seed(training.seed)
    size = (planted.size, planted.size)
    network = SmallResNet(planted.channels, planted.classes, size, training.width)
    train_network(network, loaded, training, Phase("steps"))
    card = ClassifierCard(
        source=SOURCE,
        options={
            "channels": planted.channels,
            "classes": planted.classes,
            "size": list(size),
            "width": training.width,
        },
        input=InputSpec(size=size, mean=(0.5,) * 3, std=(0.5,) * 3),
        classes=planted.class_names,
    )
    return wrap_module(network, card)


@torch.no_grad()
def measure_masks(
    classifier: Classifier, explainer: MaskExplainer, source: TaggedImages
) -> tuple[dict[str, list[float]], list[render.Tile]]:
    """Measure where the masks of the predicted classes are; returns figures, and some pictures.

    Each figure is a mean and both ends of its 95 % interval.
    """
    items = list(source)
    images = torch.stack([item.picture for item in items])
    objects = torch.stack([item.region for item in items if item.region is not None])
    labels = torch.tensor([source.class_names.index(str(item.label)) for item in items])
    tags, corners = torch.zeros_like(labels), torch.zeros_like(objects)
    for index in range(len(source)):
        tags[index], rows, columns = source.choose_tag(index, int(labels[index]))
        corners[index, rows, columns] = True
    objects &= ~corners  # a tag may cover a part of the object
    logits = torch.cat([classifier(part) for part in images.split(100)])
    predicted = logits.argmax(1)
    parts = zip(images.split(100), predicted.split(100), strict=True)
    masks = torch.cat([explainer.attribute(part, targets) for part, targets in parts])
    scores = {
        "predicts the pattern": (predicted == labels).float(),
        "predicts the tag": (predicted == tags).float(),
        "mask on the pattern": metrics.energy(masks, objects),
        "mask on the tag": metrics.energy(masks, corners),
        "peak on the pattern": metrics.pointing_game(masks, objects),
        "peak on the tag": metrics.pointing_game(masks, corners),
        "area of the mask": masks.mean((1, 2)),
        "area of the pattern": objects.float().mean((1, 2)),
        "area of the tag": corners.float().mean((1, 2)),
    }
    tiles = [
        render.Tile(render.draw_overlay(image, mask), source.class_names[target])
        for image, mask, target in zip(images[:8], masks, predicted.tolist(), strict=False)
    ]
    return {name: summarise(values) for name, values in scores.items()}, tiles


def summarise(values: torch.Tensor) -> list[float]:
    """Return the mean and both ends of its bootstrapped 95 % interval."""
    low, high = bootstrap_interval(values.double().numpy(), 0)
    return [round(number, 4) for number in (values.mean().item(), low, high)]


def write_table(rows: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Write the figures in percent as a table."""
    names = list(next(iter(rows.values())))
    lines = [f"| classifier | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for name, figures in rows.items():
        cells = (f"{100 * m:.0f} ({100 * a:.0f} to {100 * b:.0f})" for m, a, b in figures.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
