"""A card of braai behind a stretch that can be undone, so that explainers work among pixels.

    python recipes/ztf/braai.py MODELS/braai_ztf.pt2.json LEARN.npz OUT.json

The network still sees its counts, each stamp divided by its own norm; between the door and its
rule they are pixels in [0, 1], where a blur, a plain colour or noise mean what they say.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from apercu.classifiers import ClassifierCard, read_card, write_card
from apercu.images import open_images
from apercu.images.stretch import Stretch

SAMPLE = 200
BENDS = 10.0
"""Counts where the curve bends: about the noise of the sky."""


def behind_a_stretch(card: ClassifierCard, stamps: str, out: Path) -> ClassifierCard:
    """The card with a stretch from the lowest to the highest counts of a sample.

    The program is copied beside it, as the files of a card are in its folder.
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
        noise=(BENDS,) * card.input.channels,
        sky=False,
    )
    program = shutil.copy(card.source, out.with_name(f"{out.stem}-{Path(card.source).name}"))
    input = card.input.model_copy(update={"stretch": stretch})
    return card.model_copy(update={"source": program.name, "input": input})


if __name__ == "__main__":
    given, stamps, out = sys.argv[1:]
    write_card(behind_a_stretch(read_card(given), stamps, Path(out)), out)
