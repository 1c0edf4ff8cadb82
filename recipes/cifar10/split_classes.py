"""Write CIFAR-10 as folders: `train` and `known` have the classes 0 to 4, `unknown` 5 to 9.

    python recipes/cifar10/split_classes.py DATA OUT

DATA is the folder with `train.parquet` and `test.parquet`. `known` and `unknown` have the first 400
images of each class of the test part. With them comes `noise`,
500 images of random pixels.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch

from apercu.images import open_images
from apercu.render import save_image, to_image

FIRST = ("airplane", "automobile", "bird", "cat", "deer")
NOISY = 500
TESTED = 400


def main() -> None:
    """Write all folders that are not there yet."""
    data, out = map(Path, sys.argv[1:3])
    for part, folders in {"train": ("train", ""), "test": ("known", "unknown")}.items():
        if (out / folders[0]).is_dir():
            continue
        source = open_images(str(data / f"{part}.parquet"), channels=3)
        names = source.class_names or ()
        counts: Counter[str] = Counter()
        for index, item in enumerate(source):
            name = str(names[item.label] if isinstance(item.label, int) else item.label)
            folder = folders[name not in FIRST]
            counts[name] += 1
            if folder and (part == "train" or counts[name] <= TESTED):
                path = out / f"{folder}.part" / name / f"{index:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    save_image(path, to_image(item.picture))
        for folder in filter(None, folders):
            (out / f"{folder}.part").rename(out / folder)
    noise = out / "noise"
    if not noise.is_dir():
        noise.mkdir()
        generator = torch.Generator().manual_seed(0)
        for index in range(NOISY):
            save_image(noise / f"{index}.png", to_image(torch.rand(3, 32, 32, generator=generator)))


if __name__ == "__main__":
    main()
