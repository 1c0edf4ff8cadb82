"""The numbers of each tensor of a classifier in random order, as a new classifier.

    python recipes/evidence/permute.py CARD OUT [--seed N]

Writes OUT/card.json and the weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from apercu.classifiers import Classifier, open_classifier, save_classifier, wrap_module
from apercu.classifiers.card import read_card


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("card", type=Path)
    words.add_argument("out", type=Path)
    words.add_argument("--seed", type=int, default=0)
    arguments = words.parse_args()
    save_classifier(permute_weights(arguments.card, arguments.seed), arguments.out)


def permute_weights(card: Path, seed: int) -> Classifier:
    """Return a classifier with the numbers of each of its tensors in random order."""
    classifier = open_classifier(card, trust=True)
    changes = {"weights": None, "classes": classifier.classes}
    module = classifier.module
    assert module is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.parameters():
            order = torch.randperm(tensor.numel(), generator=generator)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
    return wrap_module(module, read_card(card).model_copy(update=changes), classifier.names)


if __name__ == "__main__":
    main()
