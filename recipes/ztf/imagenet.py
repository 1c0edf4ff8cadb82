"""A card of ImageNet features for stamps, with the stretch that a pretraining has measured.

python recipes/ztf/imagenet.py MODELS/mobilenetv2_100.json RUN/card.json OUT.json
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from apercu.classifiers import ClassifierCard, read_card, write_card


def join_cards(imagenet: ClassifierCard, pretrained: ClassifierCard, out: Path) -> ClassifierCard:
    """Return a card with the network of one card, and the stretch and bands of another.

    Its files are copied beside the new card, as the files of a card are in its folder.

    Args:
        imagenet: card of the network.
        pretrained: card of a network for stamps.
        out: file of the new card.

    Returns:
        The new card, which is not written yet.
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


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("imagenet")
    words.add_argument("pretrained")
    words.add_argument("out", type=Path)
    arguments = words.parse_args()
    cards = read_card(arguments.imagenet), read_card(arguments.pretrained)
    write_card(join_cards(*cards, arguments.out), arguments.out)


if __name__ == "__main__":
    main()
