"""Draws images beside the maps of several methods, one row for each image.

    python recipes/vit/pictures.py CLASSIFIER RUN IMAGES OUT.png [--methods A B …] [--indices 0 1 …]

IMAGES is what `apercu compare` takes, with labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from apercu import load_explainer, render
from apercu.classifiers import Classifier, open_classifier
from apercu.images import open_images
from apercu.maps import min_max_scale
from apercu.methods import get

METHODS = "attention_rollout attention_relevance grad_cam rise:masks=400 gradient:smoothed=0.03"


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("classifier", "run", "images"):
        words.add_argument(name)
    words.add_argument("out", type=Path)
    words.add_argument("--methods", nargs="+", default=METHODS.split())
    words.add_argument("--indices", type=int, nargs="+", default=list(range(6)))
    words.add_argument("--side", type=int, default=160)
    arguments = words.parse_args()
    classifier = open_classifier(arguments.classifier)
    explainer = load_explainer(arguments.run)
    sheet = []
    for title, image, target in take_items(classifier, arguments.images, arguments.indices):
        tiles = [render.Tile(render.to_image(image), title)]
        mask = explainer(image[None], target=target)[0]
        tiles.append(render.Tile(render.draw_overlay(image, mask), "mask"))
        for name in arguments.methods:
            heat = min_max_scale(get(name)(classifier, image[None], target))[0]
            tiles.append(render.Tile(render.draw_overlay(image, heat), name.partition(":")[0]))
        sheet.append(tiles)
    render.save_image(arguments.out, render.draw_contact_sheet(sheet, arguments.side))


def take_items(
    classifier: Classifier, images: str, indices: list[int]
) -> Iterator[tuple[str, Tensor, int]]:
    """Yield title, image and label of some images of a source."""
    source = open_images(images)
    for index in indices:
        item = source[index]
        target = classifier.index_of(str(item.label))
        yield classifier.classes[target], classifier.prepare(item.picture), target


if __name__ == "__main__":
    main()
