"""Draws test alerts with what braai looks at: a sheet of stamps, masks and other maps.

    python recipes/ztf/pictures.py RUN_FOLDER [NUMBER…]

Draws alerts.png into the folder: science, template and difference stamp, then the mask, the change
of the counterpart, occlusion and RISE over the difference. Without numbers (rows of test.npz), the
alerts of which braai is surest, real and bogus.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from apercu import open_classifier, open_images, render
from apercu.explainers.run_folder import load_explainer
from apercu.methods import Occlusion, Rise

BANDS = ("science", "template", "difference")
SUREST = 5
"""Alerts of each class that are drawn where none are named."""
SIDE = 150


def main(run: Path, numbers: list[int]) -> None:
    """Draw the sheet into the run folder; numbers are rows of test.npz."""
    classifier = open_classifier(run / "braai.json")
    source = open_images(run / "data" / "test.npz", channels=3)
    mask, counterpart = load_explainer(run / "mask"), load_explainer(run / "counterpart")
    if not numbers:
        every = torch.stack([classifier.prepare(item.picture) for item in source])
        order = classifier.predict_probabilities(every)[:, 1].argsort().tolist()
        numbers = [*order[:SUREST], *order[-SUREST:]]
    rows = []
    for number in numbers:
        item = source[number]
        images = classifier.prepare(item.picture)[None]
        probabilities = classifier.predict_probabilities(images)[0]
        target = probabilities.argmax()[None]
        maps = {
            "mask": mask.attribute(images, target),
            "counterpart": counterpart.attribute(images, target),
            "occlusion": Occlusion()(classifier, images, target),
            "rise": Rise(masks=1000)(classifier, images, target),
        }
        tiles = [
            render.Tile(
                render.to_image(item.picture[i : i + 1]), f"{number} {band}" if not i else band
            )
            for i, band in enumerate(BANDS)
        ]
        title = f"{classifier.classes[int(target)]} {probabilities.max():.2f}"
        for name, map in maps.items():
            heat = map[0] if name == "mask" else _stretch_map(map[0])
            over = render.draw_overlay(render.stretch_to_visible(item.picture[2:]), heat)
            tiles.append(render.Tile(over, f"{name}: {title}" if name == "mask" else name))
        rows.append(tiles)
    render.save_image(run / "alerts.png", render.draw_contact_sheet(rows, SIDE))
    print(run / "alerts.png")


def _stretch_map(map: torch.Tensor) -> torch.Tensor:
    """Return a map, `height × width`, stretched to [0, 1]; a constant one is 0."""
    return (map - map.min()) / (map.max() - map.min()).clamp(min=1e-9)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN_FOLDER", type=Path)
    parser.add_argument("numbers", metavar="NUMBER", type=int, nargs="*")
    main(**vars(parser.parse_args()))
