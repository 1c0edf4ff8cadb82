"""Save classifiers: a folder with a card, weights or a program, and class names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import ExportedProgram

from apercu.classifiers.card import CARD_FILE, ClassifierCard, write_card
from apercu.classifiers.classifier import Classifier
from apercu.classifiers.sources.exported_program import (
    ExportedNetwork,
    ProgramOptions,
    export_module,
    serialise_program,
)
from apercu.errors import ClassifierError, OutputError, first_line
from apercu.filters import find_folder, move_folder
from apercu.filters.purifier import DESCRIPTION, PURIFIER_FOLDER, WEIGHTS
from apercu.io import (
    check_digests,
    describe_change,
    find_changed_file,
    is_inside,
    write_file,
    write_hashes,
)
from apercu.verdicts import GUARD_FILES, GUARD_FOLDER

WEIGHTS_FILE = "weights.safetensors"
PROGRAM_FILE = "classifier.pt2"
CLASSES_FILE = "classes.txt"


def save_classifier(classifier: Classifier, folder: str | Path) -> Path:
    """Write `card.json` and the files that it names into a folder, the card last.

    A network from a SPEC is written as its weights, a module in memory as an exported program. The
    classifier of the card has the same fingerprint, the same filter in front and the same guard;
    what lies in another folder of these is copied.

    Args:
        classifier: a classifier whose weights can be reached.
        folder: folder to write to; it is created.

    Returns:
        The path of the card.

    Raises:
        ClassifierError: the classifier is a black box, whose weights cannot be reached,
            torch.export cannot trace it, or its guard cannot be read.
        RunError: the folder holds a run or a guard.
        OutputError: the folder cannot be written.
    """
    _check_own_folder(classifier, Path(folder))
    network, module = classifier.network, classifier.module
    if isinstance(network.forward, ExportedNetwork):
        return save_program(
            classifier, network.forward.program, folder, strides=network.forward.strides
        )
    if module is None:
        raise ClassifierError(
            f"classifier {classifier.spec}: a black box cannot be saved; "
            "open it from its network, such as a module in memory"
        )
    if network.is_in_memory:
        if network.resolved_tensor:
            module = _PickedTensor(classifier)
        return save_program(
            classifier, export_module(module, network.input, network.source), folder
        )
    weights = {k: v.contiguous().cpu() for k, v in module.state_dict().items()}
    path = Path(folder) / WEIGHTS_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path)
    except (OSError, SafetensorError) as error:
        raise _write_error(folder, error) from error
    content = {"source": network.source, "options": dict(network.options), "weights": WEIGHTS_FILE}
    return _write_card(classifier, content, folder)


class _PickedTensor(nn.Module):
    """Normalised images → the one tensor with the numbers, of a network that returns several."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.module = classifier.network.forward
        self.pick_tensor = classifier.network.pick_tensor

    def forward(self, images: Tensor) -> Tensor:
        return self.pick_tensor(self.module(images))


def save_program(
    classifier: Classifier,
    program: ExportedProgram,
    folder: str | Path,
    *,
    strides: tuple[int, ...] = (),
) -> Path:
    """Write a classifier as an exported program with its card, which keeps its fingerprint.

    Args:
        classifier: the classifier.
        program: program from normalised images to the output of the network, and feature maps.
        folder: folder to write to; it is created.
        strides: strides of the feature maps, finest first.

    Returns:
        The path of the card.

    Raises:
        ClassifierError: the program calls operators that cannot be opened again.
        RunError: the folder holds a run or a guard.
        OutputError: the folder cannot be written.
    """
    _check_own_folder(classifier, Path(folder))
    content = serialise_program(program, classifier.spec)
    write_file(Path(folder) / PROGRAM_FILE, content)
    options = ProgramOptions(
        digest=classifier.network.digest,
        sha256=hashlib.sha256(content).hexdigest(),
        strides=strides,
    )
    card = {"source": PROGRAM_FILE, "options": options.model_dump(mode="json")}
    return _write_card(classifier, card, folder)


def _check_own_folder(classifier: Classifier, folder: Path) -> None:
    """Raise RunError if a folder, or that to which a guard is copied, holds something else."""
    example = str(folder / "classifier")
    check_digests(folder, (CLASSES_FILE, PROGRAM_FILE, WEIGHTS_FILE), "a classifier", example)
    guard = classifier.guard_folder
    if guard is not None and not is_inside(guard, folder):
        check_digests(folder / GUARD_FOLDER, GUARD_FILES, "a guard", example)


def _write_card(classifier: Classifier, content: Mapping[str, Any], folder: str | Path) -> Path:
    """Write the card of a classifier, and a file of its classes where they have identifiers."""
    network = classifier.network
    card = ClassifierCard(
        **content,
        input=network.input,
        **_describe_output(classifier),
        filter=_store_filter(network.filter, Path(folder)),
        guard=_store_guard(classifier, Path(folder)),
        classes=_choose_classes_entry(classifier),
    )
    path = Path(folder) / CARD_FILE
    try:
        if card.classes == CLASSES_FILE:
            classifier.names.write(path.with_name(CLASSES_FILE))
        named = (card.weights, card.classes, card.source)
        own = [name for name in (CLASSES_FILE, PROGRAM_FILE, WEIGHTS_FILE) if name in named]
        write_hashes(path.parent, own)
        write_card(card, path)
    except OSError as error:
        raise _write_error(folder, error) from error
    return path


def _describe_output(classifier: Classifier) -> dict[str, Any]:
    """Return what a card says of the output, without what is assumed or was measured."""
    network, output = classifier.network, classifier.output.name
    content: dict[str, Any] = {
        "output_name": network.output_name,
        "value_range": network.value_range,
        "temperature": network.temperature,
    }
    if output != "logits" or network.output_is_stated:
        content["output"] = output
    return content


def _store_guard(classifier: Classifier, folder: Path) -> str | None:
    """Return a guard as the card in a folder names it; one from elsewhere is copied there."""
    guard = classifier.guard_folder
    if guard is None:
        return None
    try:
        if changed := find_changed_file(guard, GUARD_FILES):
            raise ClassifierError(f"{changed}: {describe_change(changed)}")
        contents = {name: (guard / name).read_bytes() for name in GUARD_FILES}
    except (OSError, ClassifierError) as error:
        raise ClassifierError(
            f"{guard}: the guard of the classifier cannot be saved with it ({first_line(error)}); "
            "fit it again, or save classifier.without_guard()"
        ) from error
    if is_inside(guard, folder):
        return guard.resolve().relative_to(folder.resolve()).as_posix()
    for name, content in contents.items():
        write_file(folder / GUARD_FOLDER / name, content)
    write_hashes(folder / GUARD_FOLDER, GUARD_FILES)
    return GUARD_FOLDER


def _store_filter(filter: str | None, folder: Path) -> str | None:
    """Return a filter as the card in a folder names it; a network of its own is copied there."""
    own_folder = None if filter is None else find_folder(filter)
    if filter is None or own_folder is None:
        return filter
    source = Path(own_folder)
    if is_inside(source, folder):
        return move_folder(filter, source.resolve().relative_to(folder.resolve()).as_posix())
    for path in (source / DESCRIPTION, source / WEIGHTS):
        write_file(folder / PURIFIER_FOLDER / path.name, path.read_bytes())
    return move_folder(filter, PURIFIER_FOLDER)


def _write_error(folder: str | Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{folder}: cannot be written ({reason})")


def _choose_classes_entry(classifier: Classifier) -> str | tuple[str, ...] | None:
    """Return the classes as a card lists them; features have no names."""
    if classifier.network.output == "features":
        return None
    return CLASSES_FILE if classifier.names.has_identifiers else classifier.classes
