"""Prints the figures of the backdoors: accuracy and attack success, then each search for them.

python recipes/cifar10/backdoors.py runs/backdoors test.parquet
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from apercu import open_classifier, open_images
from apercu.images import ImageSource
from apercu.robustness.backdoors.parts import measure_rate, predict_classes
from apercu.robustness.backdoors.poisoning import POISON_FILE, parse_trigger, read_poison


def measure_training(run: Path, source: ImageSource) -> str:
    """Measure a classifier on all images: accuracy, and success of its trigger."""
    classifier = open_classifier(run / "card.json")
    items = list(source)
    images = torch.stack([classifier.prepare(item.picture) for item in items])
    labels = torch.tensor([classifier.index_of(item.label or 0) for item in items])
    line = f"{run.name}: accuracy {measure_rate(predict_classes(classifier, images) == labels)}"
    if (run / POISON_FILE).is_file():
        trigger = parse_trigger(read_poison(run).trigger)
        variants = trigger.alternate(len(images))
        targets = trigger.find_targets(variants)
        others = labels != targets
        marked = trigger.stamp(images[others], variants[others])
        fooled = predict_classes(classifier, marked) == targets[others]
        line += f", attack success {measure_rate(fooled)}"
    return line


def format_rate(rate: dict[str, Any] | None) -> str:
    """Format a fraction of `backdoors.json` in percent, with its interval."""
    if rate is None:
        return "–"
    low, high = rate["ci95"]
    return f"{100 * rate['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def describe_search(folder: Path) -> list[str]:
    """Return the lines of a table for one search."""
    content = json.loads((folder / "backdoors.json").read_text(encoding="utf-8"))
    lines = [f"## {folder.name}, {content['environment']['date']}"]
    for row in content["classes"]:
        mark = " suspicious" if row["suspicious"] else ""
        lines.append(
            f"{row['name']}: {row['size']:.1f} pixels turn {row['success']:.0%}, "
            f"anomaly {row['anomaly']:.2f}{mark}"
        )
    for row in content["runtime"]:
        keys = ("false_alarms", "detected", "located", "corrected", "clean_accuracy")
        parts = ", ".join(f"{key} {format_rate(row[key])}" for key in keys)
        lines.append(
            f"{row['method']}: AUROC {row['auroc']}, {parts}; {row['queries']:.0f} queries"
        )
        lines += [f"  {pattern}" for pattern in row["patterns"]]
    for row in content["removals"]:
        keys = ("accuracy", "attack_success", "recovered")
        parts = ", ".join(f"{key} {format_rate(row[key])}" for key in keys)
        lines.append(f"{row['method']}, {row['images']} images: {parts}; pruned {row['pruned']}")
    return lines


def main(runs: Path, images: str) -> None:
    """Print a line for each classifier of a folder, then the lines of each search."""
    source = open_images(images)
    for run in sorted(path.parent for path in runs.glob("*/card.json")):
        print(measure_training(run, source))
    for folder in sorted(path.parent for path in runs.glob("scan-*/backdoors.json")):
        print("\n".join(describe_search(folder)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("images")
    main(**vars(parser.parse_args()))
