"""Every way to a classifier: by what people type, or from a module in memory."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from apercu.classifiers.card import FILE_ENDINGS, ClassifierCard, read_card
from apercu.classifiers.classifier import Classifier
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import Network
from apercu.classifiers.sources.module import open_module
from apercu.errors import ClassifierError, suggest_nearest

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def open_classifier(spec: str | Path, *, device: str | torch.device = "cpu") -> Classifier:
    """Open a classifier by its SPEC, and classify one grey image to see that it works.

    Args:
        spec: `timm/NAME`, `torchvision/NAME`, `FILE.pt2`, `FILE.onnx`,
            `package.module:factory`, or `CARD.json`, a classifier card.
        device: device on which it shall run.

    Returns:
        The classifier.

    Raises:
        ClassifierError: it cannot be opened, or cannot classify images of its own size.
    """
    text = str(spec)
    card = read_card(text) if text.endswith(".json") else ClassifierCard(source=text)
    names = _read_names(card)
    with torch.random.fork_rng(devices=[]):
        network = _open_network(card, None if names is None else len(names.names))
    if names is not None:
        network = network.with_names(names)
    return Classifier(network, spec=text).to(device)


def wrap_module(
    module: nn.Module, card: ClassifierCard, names: ClassNames | None = None
) -> Classifier:
    """Make a classifier of a module; it is put into evaluation mode and its parameters frozen.

    Args:
        module: network from normalised images to the output that the card names.
        card: description of the module, with `input`; its `source` and `options` say how to build
            such a module again, and its `classes` are a list. The weights are the module's.
        names: class names; those of the card if None.

    Returns:
        The classifier.

    Raises:
        ClassifierError: the card has no `input` or names a file of classes, or the module cannot
            classify such images.
    """
    return Classifier(open_module(module, card, names))


def _open_network(card: ClassifierCard, class_count: int | None) -> Network:
    if card.weights is not None and card.source.endswith(FILE_ENDINGS):
        raise ClassifierError(f"classifier {card.source}: holds its own weights; drop `weights`")
    if card.source.startswith("timm/"):
        from apercu.classifiers.sources.timm import open_timm

        return open_timm(card, class_count)
    if card.source.startswith("torchvision/"):
        from apercu.classifiers.sources.torchvision import open_torchvision

        return open_torchvision(card, class_count)
    if card.source.endswith(".pt2"):
        from apercu.classifiers.sources.exported_program import open_exported

        return open_exported(card)
    if card.source.endswith(".onnx"):
        from apercu.classifiers.sources.onnx import open_onnx

        return open_onnx(card)
    if _FACTORY.fullmatch(card.source):
        from apercu.classifiers.sources.factory import open_factory

        return open_factory(card)
    raise _unknown_source_error(card.source)


def _read_names(card: ClassifierCard) -> ClassNames | None:
    if isinstance(card.classes, str):
        return ClassNames.read(card.classes)
    return None if card.classes is None else ClassNames.of(card.classes)


def _unknown_source_error(source: str) -> ClassifierError:
    if source.endswith((".pth", ".pt", ".ckpt", ".safetensors", ".bin")):
        hint = "; weights alone are no network: write a card with `source` and `weights`"
    else:
        hint = suggest_nearest(source.partition("/")[0], ("timm", "torchvision"))
    return ClassifierError(
        "classifier: expected timm/NAME, torchvision/NAME, FILE.pt2, FILE.onnx, "
        f"package.module:factory or CARD.json, got {source!r}{hint}"
    )
