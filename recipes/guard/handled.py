"""Writes photographs as other people may have stored them.

    python recipes/guard/handled.py IMAGES OUT COUNT

OUT holds a folder for each way: stored again as a JPEG of quality 60, halved in size, and grey.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

QUALITY = 60
"""Quality of the JPEGs that are stored again."""


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("images", type=Path)
    words.add_argument("out", type=Path)
    words.add_argument("count", type=int)
    arguments = words.parse_args()
    images, out, count = arguments.images, arguments.out, arguments.count
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for name in ("stored-again", "halved", "grey"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for path in files[:count]:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
        image.save(out / "stored-again" / path.name, quality=QUALITY)
        half.save(out / "halved" / path.with_suffix(".png").name)
        image.convert("L").save(out / "grey" / path.name, quality=90)


if __name__ == "__main__":
    main()
