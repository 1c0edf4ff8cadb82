"""Write CIFAR-10 as folders: `train` and `known` have the classes 0 to 4, `unknown` 5 to 9.

    python recipes/cifar10/split_classes.py DATA OUT

DATA is the folder with `train.parquet` and `test.parquet`. `known` and `unknown` have the first 400
images of each class of the test part. With them comes `noise`, 500 images of random pixels.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import torch

from apercu.images import open_images
from apercu.render import save_image, to_image

KNOWN = ("airplane", "automobile", "bird", "cat", "deer")
NOISE_IMAGES = 500
TEST_IMAGES = 400
"""Images of each class of the test part."""


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("data", type=Path)
    words.add_argument("out", type=Path)
    arguments = words.parse_args()
    write_classes(arguments.data, arguments.out)
    write_noise(arguments.out / "noise")


def write_classes(data: Path, out: Path) -> None:
    """Write `train`, `known` and `unknown`, a folder for each class, where they are not yet."""
    for part, folders in {"train": ("train", ""), "test": ("known", "unknown")}.items():
        if (out / folders[0]).is_dir():
            continue
        source = open_images(str(data / f"{part}.parquet"), channels=3)
        names = source.class_names or ()
        counts: Counter[str] = Counter()
        for index, item in enumerate(source):
            name = str(names[item.label] if isinstance(item.label, int) else item.label)
            folder = folders[name not in KNOWN]
            counts[name] += 1
            if folder and (part == "train" or counts[name] <= TEST_IMAGES):
                path = out / f"{folder}.part" / name / f"{index:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    save_image(path, to_image(item.picture))
        for folder in filter(None, folders):
            (out / f"{folder}.part").rename(out / folder)


def write_noise(folder: Path) -> None:
    """Write images of random pixels, where they are not yet."""
    if not folder.is_dir():
        folder.mkdir()
        generator = torch.Generator().manual_seed(0)
        for index in range(NOISE_IMAGES):
            picture = torch.rand(3, 32, 32, generator=generator)
            save_image(folder / f"{index}.png", to_image(picture))


if __name__ == "__main__":
    main()
