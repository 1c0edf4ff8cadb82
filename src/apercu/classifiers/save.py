"""Classifiers that live in memory: a module behind the door, and from there to a folder."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from apercu.classifiers.card import ClassifierCard, write_card
from apercu.classifiers.classifier import Classifier
from apercu.classifiers.fingerprint import digest_module
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import Network
from apercu.errors import ClassifierError, OutputError

CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.safetensors"
CLASSES_FILE = "classes.txt"


def wrap_module(
    module: nn.Module, card: ClassifierCard, names: ClassNames | None = None
) -> Classifier:
    """Puts a module behind the door; it is switched to inference and its parameters frozen.

    Args:
        module: normalised images → the card's output.
        card: needs `input`; its `source` and `options` say how to build such a module again,
            its `classes` are listed. The weights are the module's.
        names: of the classes; the card's where None.

    Raises:
        ClassifierError: the card says no input or names a file of classes, or the module does
            not answer such images.
    """
    if card.input is None or isinstance(card.classes, str):
        raise ClassifierError(
            f"classifier {card.source}: a module in memory needs a card with `input`, and with "
            "`classes` as a list if it has names"
        )
    if names is None and card.classes is not None:
        names = ClassNames.of(card.classes)
    network = Network(
        source=card.source,
        forward=module,
        digest=digest_module(module, card.source, card.options),
        input=card.input,
        output=card.output,
        names=names,
        options=card.options,
    )
    return Classifier(network)


def save_classifier(classifier: Classifier, folder: str | Path) -> Path:
    """Writes `card.json` and what it refers to into a folder, the card last; returns its path.

    Raises:
        ClassifierError: the classifier is a black box: its weights are not at hand.
        OutputError: the folder cannot be written.
    """
    if classifier.module is None:
        raise ClassifierError(f"classifier {classifier.spec}: only open networks can be saved")
    network = classifier.network
    card = ClassifierCard(
        source=network.source,
        options=dict(network.options),
        weights=WEIGHTS_FILE,
        input=network.input,
        output=network.output,
        classes=_choose_classes_entry(classifier),
    )
    weights = {k: v.contiguous().cpu() for k, v in classifier.module.state_dict().items()}
    path = Path(folder) / CARD_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path.with_name(WEIGHTS_FILE))
        if card.classes == CLASSES_FILE:
            classifier.names.write(path.with_name(CLASSES_FILE))
        write_card(card, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{folder}: cannot be written ({reason})") from error
    return path


def _choose_classes_entry(classifier: Classifier) -> str | tuple[str, ...] | None:
    """The classes as a card lists them; features have no names."""
    if classifier.network.output == "features":
        return None
    return classifier.classes if classifier.names.plain else CLASSES_FILE
