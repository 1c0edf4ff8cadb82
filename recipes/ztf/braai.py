"""A card of braai behind a stretch that can be undone, so that explainers work among pixels.

    python recipes/ztf/braai.py MODELS/braai_ztf.pt2.json LEARN.npz OUT.json

The network still gets its counts, each stamp divided by its own norm. Explainers get pixels in
[0, 1], where a blur, a plain colour or noise have their usual meaning.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from apercu.classifiers import ClassifierCard, read_card, write_card
from apercu.images import open_images
from apercu.images.stretch import Stretch

SAMPLE = 200
"""Stamps whose lowest and highest counts are measured."""
SKY_NOISE = 10.0
"""Counts where the curve of the stretch bends: about the noise of the sky."""


def add_stretch(card: ClassifierCard, stamps: str, out: Path) -> ClassifierCard:
    """Return a card with a stretch from the lowest to the highest counts of a sample.

    The program is copied beside the new card, as the files of a card are in its folder.

    Args:
        card: card of braai.
        stamps: stamps that are measured.
        out: file of the new card.

    Returns:
        The new card, which is not written yet.
    """
    if card.input is None:
        raise SystemExit("error: expected a card that says its input")
    source = open_images(stamps, channels=card.input.channels)
    spread = range(0, len(source), max(1, len(source) // SAMPLE))
    counts = torch.stack([source[index].picture.nan_to_num(0.0) for index in spread])
    low, high = counts.amin((0, 2, 3)), counts.amax((0, 2, 3))
    stretch = Stretch(
        low=tuple(float(f"{value:.4g}") for value in (low - 1).tolist()),
        high=tuple(float(f"{value:.4g}") for value in (high + 1).tolist()),
        noise=(SKY_NOISE,) * card.input.channels,
        sky=False,
    )
    program = shutil.copy(card.source, out.with_name(f"{out.stem}-{Path(card.source).name}"))
    input = card.input.model_copy(update={"stretch": stretch})
    return card.model_copy(update={"source": program.name, "input": input})


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("card")
    words.add_argument("stamps")
    words.add_argument("out", type=Path)
    arguments = words.parse_args()
    card = add_stretch(read_card(arguments.card), arguments.stamps, arguments.out)
    write_card(card, arguments.out)


if __name__ == "__main__":
    main()
