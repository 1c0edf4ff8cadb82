"""Draws images beside the maps of several methods, one row for each image.

    python recipes/vit/pictures.py CLASSIFIER RUN IMAGES OUT.png [--methods A,B] [--indices 0,1,…]

IMAGES is what `apercu compare` takes, or `scikit-image`: three of its photographs in the public
domain, for classifiers of ImageNet's classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from skimage import data
from torch import Tensor

from apercu import load_explainer, render
from apercu.classifiers import Classifier, open_classifier
from apercu.images import open_images
from apercu.maps import min_max_scale
from apercu.methods import get

METHODS = "attention_rollout attention_relevance grad_cam rise:masks=400 gradient:smoothed=0.03"
PHOTOGRAPHS = {
    "chelsea": ("Egyptian cat",),
    "coffee": ("espresso",),
    "rocket": ("missile",),
    "chelsea and coffee": ("Egyptian cat", "espresso"),
}


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
    if arguments.images == "scikit-image":
        rows = take_photographs(classifier)
    else:
        rows = take_items(classifier, arguments.images, arguments.indices)
    sheet = []
    for title, image, target in rows:
        tiles = [render.Tile(render.to_image(image), title)]
        mask = explainer(image[None], target=target)[0]
        tiles.append(render.Tile(render.draw_overlay(image, mask), "mask"))
        for name in arguments.methods:
            heat = min_max_scale(get(name)(classifier, image[None], target))[0]
            tiles.append(render.Tile(render.draw_overlay(image, heat), name.partition(":")[0]))
        sheet.append(tiles)
    render.save_image(arguments.out, render.draw_contact_sheet(sheet, arguments.side))


def take_photographs(classifier: Classifier) -> Iterator[tuple[str, Tensor, int]]:
    """Yield title, image and target of scikit-image's photographs; the last is made of two."""
    images: dict[str, Tensor] = {}
    for name, targets in PHOTOGRAPHS.items():
        if " and " not in name:
            pixels = np.ascontiguousarray(getattr(data, name)()[..., :3])
            picture = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
            images[name] = classifier.prepare(picture)
        else:
            width = classifier.size[1]
            middle = slice(width // 4, width // 4 + width // 2)
            halves = [images[part][:, :, middle] for part in name.split(" and ")]
            images[name] = torch.cat(halves, 2)
        for target in targets:
            yield target, images[name], classifier.index_of(target)


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
