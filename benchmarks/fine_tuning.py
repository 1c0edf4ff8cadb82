"""Frozen, gradual or full: size, time and AUROC of each way to train each network.

    python benchmarks/fine_tuning.py --images DIR [--labels CSV] [--group COLUMN] [--test DIR]
        --out OUT [--network SPEC …] [--ways frozen,gradual_unfreezing,full] [--steps N]
        [--batch N] [--size PIXELS]

The grid of "Fine-Tuning Convolutional Neural Networks: a comprehensive guide and benchmark", which
compares networks of ImageNet by size, time and AUROC on images of the eye's fundus. Here it runs on
any labelled images. Each cell is a run folder of `apercu train classifier`; what is finished is
kept, and what was interrupted goes on. Writes OUT/grid.json and OUT/grid.md.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from apercu import train_classifier
from apercu.io import write_file
from apercu.learning.results import FIGURES, LearningFigures

WAYS = ("frozen", "gradual_unfreezing", "full")


@dataclass(frozen=True)
class Cell:
    """One network that was trained in one way.

    Attributes:
        network: SPEC of the network.
        way: recipe that chooses which layers learn.
        auroc: area under the ROC curve on the test part.
        ci95: both ends of its interval.
        balanced_accuracy: mean recall of the classes.
        training: seconds of training, steps, parameters, milliseconds per image.
    """

    network: str
    way: str
    auroc: float
    ci95: tuple[float, float]
    balanced_accuracy: float
    training: dict[str, float]


def train_cell(network: str, way: str, words: argparse.Namespace) -> Cell:
    """Train one cell, or read it where it is finished."""
    name = re.sub(r"\W+", "-", Path(network).stem if network.endswith(".json") else network)
    run = words.out / f"{name}-{way}"
    if not (run / FIGURES).is_file() or not (run / "card.json").is_file():
        settings = words.out / "settings.yaml"
        size = f"input: {{size: {words.size}}}\n" if words.size else ""
        write_file(settings, f"preset: full\n{size}")
        train_classifier(
            words.images,
            network,
            run,
            labels=words.labels,
            group=words.group,
            test=words.test,
            recipes=[way],
            config=settings,
            steps=words.steps,
            batch=words.batch,
            resume=(run / "order.json").is_file(),
            device=words.device,
        )
    figures = LearningFigures.model_validate_json((run / FIGURES).read_bytes())
    auroc = figures.figures["auroc"]
    balanced = figures.figures["balanced_accuracy"].value
    return Cell(network, way, auroc.value, auroc.ci95, balanced, figures.training)


def format_grid(cells: Sequence[Cell]) -> str:
    """Return the grid as a table."""
    lines = [
        "| network | way | million weights | seconds | ms per image | AUROC | balanced |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        low, high = cell.ci95
        facts = cell.training
        lines.append(
            f"| {cell.network} | {cell.way} | {facts['parameters'] / 1e6:.1f} "
            f"| {facts['training_seconds']:.0f} | {facts['ms_per_image']:.1f} "
            f"| {cell.auroc:.3f} ({low:.3f} to {high:.3f}) | {100 * cell.balanced_accuracy:.1f} % |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train all cells, and print the grid after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--group")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", action="append", default=[])
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--device", default="auto")
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for network in words.network or ["ready:efficientnet_lite0"]:
        for way in words.ways.split(","):
            cells.append(train_cell(network, way, words))
            content = [asdict(cell) for cell in cells]
            write_file(words.out / "grid.json", json.dumps(content, indent=1) + "\n")
            write_file(words.out / "grid.md", format_grid(cells))
            print(format_grid(cells[-1:]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
