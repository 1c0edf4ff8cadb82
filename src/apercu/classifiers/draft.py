"""`apercu card`: write a classifier card from what can be found out about a classifier."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apercu.classifiers.card import CARD_FILE, ClassifierCard, move_source, strip_source, validate
from apercu.classifiers.classifier import Classifier
from apercu.classifiers.open import PerChannel, open_network, read_spec
from apercu.classifiers.trust import trust_files
from apercu.errors import ApercuError, ClassifierError, OutputError
from apercu.io import expand_home, is_file, is_folder, is_inside, write_file


@dataclass(frozen=True)
class CardDraft:
    """A card, and what could not be found out.

    Attributes:
        card: the card; its paths are relative to the working directory.
        gaps: one line about each thing that the source does not say, and what is assumed.
        changes: one line about each thing of the completed card that belongs to the classifier as
            it was: its guard, which is left out, and its temperature.
    """

    card: ClassifierCard
    gaps: tuple[str, ...]
    changes: tuple[str, ...] = ()

    def format_json(self, folder: str | Path = ".") -> str:
        """Return the card as JSON, with paths relative to the folder of its file.

        Args:
            folder: the folder in which the file will be.

        Returns:
            The text of the file, which ends in a line break.
        """
        content = self.card.model_dump(mode="json", exclude_none=True)
        content = {key: value for key, value in content.items() if value != {}}
        for key, path in self._list_files():
            moved = Path(os.path.relpath(path, folder)).as_posix()
            content[key] = move_source(content[key], moved) if key == "source" else moved
        lines = (f" {json.dumps(key)}: {_format_value(value)}" for key, value in content.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def write(self, path: str | Path) -> None:
        """Write the card into a file.

        Raises:
            OutputError: the file cannot be written, or would not be taken for a card.
        """
        check_card_path(path)
        write_file(Path(path), self.format_json(Path(path).parent))

    def list_outside(self, folder: str | Path = ".") -> list[str]:
        """Return the keys of the card whose files are outside of a folder.

        Such a card is opened only if it is trusted.
        """
        return [key for key, path in self._list_files() if not is_inside(Path(path), Path(folder))]

    def _list_files(self) -> list[tuple[str, str]]:
        """Return the keys that hold paths of files or folders, and these paths."""
        card, source = self.card, expand_home(strip_source(self.card.source))
        paths = {
            "source": str(source) if is_file(source) or is_folder(source) else None,
            "weights": card.weights,
            "guard": card.guard,
            "classes": card.classes if isinstance(card.classes, str) else None,
        }
        return [(key, path) for key, path in paths.items() if path is not None]


def make_card(
    spec: str | Path,
    *,
    size: int | Sequence[int] | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    classes: Sequence[str] | str | Path | None = None,
    channels: int | None = None,
    output: str | None = None,
    output_name: str | None = None,
    value_range: Sequence[float | int] | None = None,
    resize: int | None = None,
    temperature: float | None = None,
    filter: str | None = None,
    weights: str | Path | None = None,
    trust: bool = False,
) -> CardDraft:
    """Open a classifier, and make a card of what it says and of what the caller says.

    Args:
        spec: a SPEC, as for `open_classifier`; also a card, which is completed.
        size: height and width of the images in pixels, or one number for both.
        mean: mean of each channel, or of all.
        std: standard deviation of each channel, or of all.
        classes: names of the classes, or the file that holds them.
        channels: number of channels.
        output: what the numbers of the network mean.
        output_name: which of several tensors holds the numbers.
        value_range: a low and a high value of a regression.
        resize: length of the short side before a centre crop, pixels.
        temperature: number by which logits are divided, so that probabilities are calibrated.
        filter: filter in front of the network, such as `floyd_steinberg` or `jpeg:quality=75`.
        weights: a safetensors file with the weights, or a checkpoint of `torch.save`.
        trust: whether a card may name a factory, or files outside its folder.

    Returns:
        The card, and what could not be found out. The guard of a completed card is left out where
        the result computes something else, and `changes` says so.

    Raises:
        UntrustedError: a file could run code, and is not trusted.
        ClassifierError: it cannot be opened, or the values do not fit each other.

    Example:
        >>> import apercu
        >>> draft = apercu.make_card("net.onnx", size=224, output="sigmoid")  # doctest: +SKIP
        >>> draft.write("card.json")  # doctest: +SKIP
    """
    card_values = {
        "output": output,
        "output_name": output_name,
        "value_range": value_range,
        "temperature": temperature,
        "filter": filter,
        "weights": None if weights is None else str(weights),
        "classes": str(classes) if isinstance(classes, Path) else classes,
    }
    input_values = {
        "channels": channels,
        "size": size,
        "resize": resize,
        "mean": mean,
        "std": std,
    }
    given = [key for key, value in {**card_values, **input_values}.items() if value is not None]
    with trust_files(trust):
        spec, original = read_spec(str(spec))
        card = _complete(original, card_values)
        if any(value is not None for value in input_values.values()):
            card = _complete(card, {"input": _describe_input(card, spec, input_values)})
        classifier = Classifier(open_network(card, spec), spec=spec)
        has_changed = bool(given) and _has_changed(original, spec, classifier)
    network = classifier.network
    content = {
        **card.model_dump(exclude_unset=True),
        "options": dict(network.options) or card.options,
        "input": network.input.model_dump(exclude_none=True),
        "output": classifier.output.name,
    }
    changes: list[str] = []
    if has_changed:
        changes = _list_changes(original, card, given)
        content.pop("guard", None)
    gaps = _list_gaps(classifier, card)
    drafted = validate(ClassifierCard, content, f"classifier {spec}")
    return CardDraft(drafted, tuple(gaps), tuple(changes))


def _has_changed(original: ClassifierCard, spec: str, classifier: Classifier) -> bool:
    """Whether a completed card computes something else; only asked where that makes a difference.

    A card that opens only now counts as another one.
    """
    if original.guard is None and original.temperature is None:
        return False
    try:
        before = Classifier(open_network(original, spec), spec=spec)
    except ApercuError:
        return True
    return before.fingerprint != classifier.fingerprint


def _list_changes(
    original: ClassifierCard, card: ClassifierCard, given: Sequence[str]
) -> list[str]:
    """Return one line about each thing of a card that belongs to the classifier as it was."""
    options = ", ".join(f"--{name.replace('_', '-')}" for name in given if name != "classes")
    lines = []
    if original.guard is not None:
        lines.append(
            f"guard {Path(original.guard).name} is left out, as {options} makes another classifier "
            "of the one that it guards; fit a guard for the new card (apercu guard fit)"
        )
    if original.temperature is not None and "temperature" not in given:
        condition = f"before {options}"
        if card.filter is not None and original.filter is None:
            condition = f"without the filter {card.filter}"
        lines.append(
            f"temperature {original.temperature:g} was set {condition}, so probabilities may be "
            "off; measure them, or take temperature out of the card"
        )
    return lines


def _describe_input(card: ClassifierCard, spec: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the source says of the input, with the values of the caller on top of it."""
    try:
        own = open_network(card, spec).input.model_dump(exclude_none=True)
    except ClassifierError:
        if values["size"] is None:
            raise
        own = {}
    return own | {key: value for key, value in values.items() if value is not None}


def _complete(card: ClassifierCard, values: Mapping[str, Any]) -> ClassifierCard:
    """Return a card with the values that are not None."""
    changes = {key: value for key, value in values.items() if value is not None}
    content = {**card.model_dump(exclude_unset=True), **changes}
    return validate(ClassifierCard, content, f"classifier {card.source}")


def _list_gaps(classifier: Classifier, card: ClassifierCard) -> list[str]:
    """Return one line about each thing that neither the source nor the caller says."""
    network = classifier.network
    gaps = []
    if network.input.mean is None and network.input.normalise is None:
        gaps.append("input.mean and input.std are not known: the network receives pixels in [0, 1]")
    if network.names is None:
        gaps.append(f"classes are not known: they are called {', '.join(classifier.classes[:2])} …")
    if "output" not in card.model_fields_set and classifier.output.name == "logits":
        gaps.append("output is not known: the numbers are taken for logits of a softmax")
    return gaps


def _format_value(value: Any) -> str:
    """Return a value as JSON; lists of names and records go over several lines."""
    if isinstance(value, dict):
        lines = (f"  {json.dumps(key)}: {json.dumps(part)}" for key, part in value.items())
        return "{\n" + ",\n".join(lines) + "\n }"
    if isinstance(value, list) and len(value) > 3:
        return (
            "[\n  " + ",\n  ".join(json.dumps(part, ensure_ascii=False) for part in value) + "\n ]"
        )
    return json.dumps(value, ensure_ascii=False)


def check_card_path(path: str | Path) -> None:
    """Check, before a classifier is opened, that a file of this name is taken for a card.

    Raises:
        OutputError: its name does not end in `.json`.
    """
    path = Path(path)
    if path.suffix != ".json":
        advice = path / CARD_FILE if path.is_dir() or not path.suffix else path.with_suffix(".json")
        raise OutputError(f"{path}: expected a name that ends in .json, such as {advice}")
