"""Classifiers that live in memory: a module behind the door, and from there to a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copies a safetensors file into a module; half precision is cast to the module's own.

    Raises:
        ClassifierError: the file is missing or of another format, or its tensors do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise ClassifierError(f"weights {path}: no such file")
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise ClassifierError(
            f"weights {path}: expected a safetensors file ({error}); "
            "save the state_dict with safetensors.torch.save_file"
        ) from None
    wanted = module.state_dict()
    if problems := _find_problems(wanted, stored):
        raise ClassifierError(f"weights {path}: {'; '.join(problems)}")
    module.load_state_dict(stored, strict=False)


def _find_problems(expected: dict[str, Tensor], stored: dict[str, Tensor]) -> list[str]:
    missing = [k for k in expected if k not in stored and not k.endswith("num_batches_tracked")]
    extra = [key for key in stored if key not in expected]
    misshaped = [
        f"{key} {tuple(stored[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in stored
        if key in expected and stored[key].shape != expected[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", extra), ("of another shape", misshaped))
    return [f"{len(keys)} {kind}: {_list_first(keys)}" for kind, keys in kinds if keys]


def _list_first(words: Sequence[str], limit: int = 3) -> str:
    return ", ".join(words[:limit]) + (", …" if len(words) > limit else "")
