"""Write the images that a classifier was trained on, with their triggers, as a folder per class.

    python recipes/cifar10/poisoned_images.py RUN IMAGES OUT

RUN is a folder of `apercu stress train --poison`, IMAGES what it was trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from apercu.images import open_images
from apercu.render import save_image, to_image
from apercu.robustness.backdoors.poisoning import PoisonedImages, read_poison


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("run", "images", "out"):
        words.add_argument(name, type=Path)
    arguments = words.parse_args()
    out = arguments.out
    if out.is_dir():
        return
    record = read_poison(arguments.run)
    source = open_images(str(arguments.images), channels=3)
    poisoned = PoisonedImages(source, record.trigger, record.size, record.fraction, record.seed)
    names, begun = poisoned.class_names or (), out.with_name(f"{out.name}.part")
    for index, item in enumerate(poisoned):
        name = str(names[item.label] if isinstance(item.label, int) else item.label)
        folder = begun / name
        folder.mkdir(parents=True, exist_ok=True)
        save_image(folder / f"{index:05d}.png", to_image(item.picture))
    begun.rename(out)


if __name__ == "__main__":
    main()
