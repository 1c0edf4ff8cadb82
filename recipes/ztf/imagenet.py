"""A card of ImageNet features for stamps, with the stretch that a pretraining has measured.

python recipes/ztf/imagenet.py MODELS/mobilenetv2_100.json RUN/card.json OUT.json
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from apercu.classifiers import ClassifierCard, read_card, write_card


def joined(imagenet: ClassifierCard, pretrained: ClassifierCard, out: Path) -> ClassifierCard:
    """The first card's network with the second's stretch and bands.

    Its files are copied beside the new card, as the files of a card are in its folder.
    """
    if imagenet.input is None or pretrained.input is None:
        raise SystemExit("error: expected cards that say their input")
    spec = pretrained.input
    update = {"stretch": spec.stretch, "bands": spec.bands}
    copies = {
        key: shutil.copy(path, out.with_name(f"{out.stem}-{Path(path).name}")).name
        for key in ("source", "weights", "classes")
        if isinstance(path := getattr(imagenet, key), str) and Path(path).is_file()
    }
    return imagenet.model_copy(update={**copies, "input": imagenet.input.model_copy(update=update)})


if __name__ == "__main__":
    first, second, out = sys.argv[1:]
    write_card(joined(read_card(first), read_card(second), Path(out)), out)
