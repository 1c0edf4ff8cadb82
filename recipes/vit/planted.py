"""A small vision transformer for planted images, trained from scratch.

    python recipes/vit/planted.py OUT [--pool mean|token] [--images N] [--epochs N] [--seed N]

64 × 64 pixels, patches of 8, six blocks of three heads. Leaves a classifier card with weights, and
`facts.json`, in OUT. About twenty minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import timm
import torch

from apercu.classifiers import ClassifierCard, InputSpec, save_classifier, wrap_module
from apercu.evaluation.demo_classifier import (
    ClassifierTraining,
    load_images,
    measure_accuracy,
    train_network,
)
from apercu.images import Planted
from apercu.run_record import Phase

SOURCE = "timm/vit_tiny_patch16_224"
OPTIONS = {"img_size": 64, "patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3}
POOLS: dict[str, dict[str, Any]] = {
    "mean": {"global_pool": "avg", "class_token": False},
    "token": {"global_pool": "token"},
}
"""What the logits are read from: the mean of all tokens, or a class token."""


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("out", type=Path)
    words.add_argument("--pool", choices=POOLS, default="mean")
    words.add_argument("--images", type=int, default=16000)
    words.add_argument("--epochs", type=int, default=20)
    words.add_argument("--seed", type=int, default=0)
    arguments = words.parse_args()
    start = time.monotonic()
    source = Planted(images=arguments.images)
    training = ClassifierTraining(
        epochs=arguments.epochs, batch=100, rate=1.5e-3, seed=arguments.seed
    )
    options = OPTIONS | POOLS[arguments.pool] | {"num_classes": source.classes}
    torch.manual_seed(arguments.seed)
    network = timm.create_model(SOURCE.removeprefix("timm/"), pretrained=False, **options)

    def report(name: str, step: int, total: int) -> None:
        if step % 40 == 0:
            print(f"step {step} of {total}", flush=True)

    train_network(network, load_images(source), training, Phase("steps", report))
    half = (0.5,) * source.channels
    card = ClassifierCard(
        source=SOURCE,
        options=options,
        input=InputSpec(size=(source.size, source.size), mean=half, std=half),
        classes=source.class_names,
    )
    classifier = wrap_module(network.eval(), card)
    save_classifier(classifier, arguments.out)
    test = replace(source, split="test", images=600)
    write_facts(
        arguments.out,
        start,
        accuracy=round(measure_accuracy(classifier, test), 3),
        test=test.name,
        train=source.name,
        pool=arguments.pool,
        epochs=arguments.epochs,
        weights=sum(weight.numel() for weight in network.parameters()),
        seed=arguments.seed,
    )


def write_facts(out: Path, start: float, **facts: Any) -> None:
    """Write and print facts.json, with the seconds since the start and the machine."""
    facts |= {
        "seconds": round(time.monotonic() - start),
        "date": str(date.today()),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    text = json.dumps(facts, indent=1)
    (out / "facts.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
