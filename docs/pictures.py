"""Draws the manual's pictures, from images that anyone may redistribute.

    python docs/pictures.py [runs/lean]

Without a run, the planted set alone. With one, which must explain a classifier with ImageNet's
classes, also its masks on scikit-image's bundled photographs in the public domain.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from skimage import data

from apercu import MaskExplainer, maps, render
from apercu.images import Planted

FOLDER = Path(__file__).parent / "pictures"
TARGETS = {"chelsea": "Egyptian cat", "coffee": "espresso", "rocket": "missile"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?")
    run = parser.parse_args().run
    draw_planted()
    if run is not None:
        draw_photographs(MaskExplainer.from_pretrained(run))


def draw_planted(size: int = 128, seed: int = 7) -> None:
    """Draw an image of each class of the planted set, at three difficulties, with its true box."""
    rows = []
    for difficulty in (0.0, 0.5, 1.0):
        source = Planted(size=size, seed=seed, difficulty=difficulty)
        items = [source[index] for index in range(source.classes)]
        rows.append(
            [
                render.Tile(
                    render.draw_boxes(render.to_image(item.picture), item.boxes),
                    f"{item.label}, difficulty {difficulty:g}",
                )
                for item in items
                if item.boxes is not None
            ]
        )
    render.save_image(FOLDER / "planted.png", render.draw_contact_sheet(rows, size))


def draw_photographs(explainer: MaskExplainer) -> None:
    """Draw masks of one class each, and of both classes of a picture of two objects."""
    pictures = {name: read_photograph(name) for name in TARGETS}
    rows = [make_row(explainer, pictures[name], name, [target]) for name, target in TARGETS.items()]
    render.save_image(FOLDER / "mask.png", render.draw_contact_sheet(rows))
    middle = slice(56, 168)
    halves = [explainer.prepare(pictures[name])[:, :, middle] for name in ("chelsea", "coffee")]
    pair = torch.cat(halves, 2)
    both = make_row(explainer, pair, "two objects", ["Egyptian cat", "espresso"])
    render.save_image(FOLDER / "two-classes.png", render.draw_contact_sheet([both]))


def read_photograph(name: str) -> torch.Tensor:
    """Return one of scikit-image's photographs, `channels × height × width` in [0, 1]."""
    pixels = np.ascontiguousarray(getattr(data, name)()[..., :3])
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def make_row(
    explainer: MaskExplainer, picture: torch.Tensor, title: str, targets: list[str]
) -> list[render.Tile]:
    """Return the picture, and for each class the overlay with the tight box, and what is kept."""
    image = explainer.prepare(picture)
    tiles = [render.Tile(render.to_image(image), title)]
    for target in targets:
        mask = explainer.attribute(image[None], target)[0]
        box = maps.tight_boxes(maps.find_regions(mask[None], 0.5))
        overlay = render.draw_boxes(render.draw_overlay(image, mask), box)
        tiles.append(render.Tile(overlay, target))
        tiles.append(render.Tile(render.draw_masked(image, mask), "kept"))
    return tiles


if __name__ == "__main__":
    main()
