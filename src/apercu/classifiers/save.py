"""Classifiers to a folder, and weights from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from apercu.classifiers.card import ClassifierCard, write_card
from apercu.classifiers.classifier import Classifier
from apercu.errors import ClassifierError, OutputError

CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.safetensors"
CLASSES_FILE = "classes.txt"


def save_classifier(classifier: Classifier, folder: str | Path) -> Path:
    """Write `card.json` and the files that it names into a folder, the card last.

    Args:
        classifier: a classifier whose module can be reached.
        folder: folder to write to; it is created.

    Returns:
        The path of the card.

    Raises:
        ClassifierError: the classifier is a black box, whose weights cannot be reached.
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
    """Return the classes as a card lists them; features have no names."""
    if classifier.network.output == "features":
        return None
    return classifier.classes if classifier.names.plain else CLASSES_FILE


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copy the weights of a safetensors file into a module, in the module's own precision.

    Raises:
        ClassifierError: the file is missing or has another format, or its tensors do not fit.
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
    if problems := _find_problems(module.state_dict(), stored):
        raise ClassifierError(f"weights {path}: {'; '.join(problems)}")
    module.load_state_dict(stored, strict=False)


def _find_problems(expected: dict[str, Tensor], stored: dict[str, Tensor]) -> list[str]:
    """Return one clause per kind of difference between two sets of weights."""
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
