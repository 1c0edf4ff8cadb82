"""Open, attach and use guards by what people name: SPECs, folders, and files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apercu.classifiers import Classifier, open_classifier
from apercu.classifiers.card import CARD_FILE, read_card
from apercu.errors import ClassifierError, ConfigError, InputError, RunError
from apercu.explainers.base import AnyExplainer
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.run_folder import digest_run, open_both
from apercu.guard.guard import Guard, read_guard_record
from apercu.guard.observe import BATCH
from apercu.images import ImageSource
from apercu.io import is_inside, parse_json, write_file
from apercu.log import warn
from apercu.verdicts import LEAVE_OUT, NO_GUARD, GuardChoice, Trust


def load_guard(
    guard: str | Path,
    classifier: Classifier | str | Path,
    explainer: AnyExplainer | str | Path | None = None,
    *,
    device: str = "cpu",
    trust: bool = False,
) -> Guard:
    """Open the folder of a guard.

    >>> import apercu
    >>> guard = apercu.load_guard("runs/films/guard", "runs/films/card.json")  # doctest: +SKIP

    Args:
        guard: folder that `fit_guard` wrote.
        classifier: the classifier that it guards, or its SPEC.
        explainer: the explainer that it was fitted with, or its run folder; None where it was
            fitted without one.
        device: `auto`, `cpu`, `cuda` or `mps`, where the classifier computes.
        trust: whether a card or a run may name a factory, whose code is run.

    Returns:
        The guard.

    Raises:
        RunError: the folder is no guard, is damaged, or belongs to another classifier or explainer.
    """
    read_guard_record(guard)
    return Guard.load(guard, *open_both(classifier, explainer, device=device, trust=trust))


def open_guard(
    classifier: Classifier | str | Path,
    guard: Guard | str | Path | None = None,
    explainer: AnyExplainer | str | Path | None = None,
    *,
    device: str = "cpu",
    trust: bool = False,
) -> Guard:
    """Open the guard of a classifier: the one that is named, or else that of its card.

    >>> import apercu
    >>> guard = apercu.open_guard("runs/films/card.json")  # doctest: +SKIP

    Args:
        classifier: the classifier or its SPEC.
        guard: a guard or its folder; None for the one that the card names.
        explainer: the explainer that it was fitted with, or its run folder; None where there is
            none, and for a guard that is open already.
        device: `auto`, `cpu`, `cuda` or `mps`, where the classifier computes.
        trust: whether a card or a run may name a factory, whose code is run.

    Returns:
        The guard.

    Raises:
        ConfigError: no guard is named.
        RunError: the folder is no guard, is damaged, or belongs to another classifier or explainer.
    """
    if isinstance(guard, str | Path):
        read_guard_record(guard)
    if isinstance(guard, Guard) and explainer is None:
        explainer = guard.observer.explainer
    opened, observed = open_both(classifier, explainer, device=device, trust=trust)
    chosen = choose_guard(guard or opened.guard_folder, opened, observed)
    if chosen is None:
        raise ConfigError(
            f"guard: the card of {opened.spec} names none; give --guard GUARD, or fit one with "
            "apercu guard fit"
        )
    return chosen


def choose_guard(
    guard: GuardChoice, classifier: Classifier | None, explainer: AnyExplainer | None = None
) -> Guard | None:
    """Return the guard of a prediction: the one that was named, or else that of the card.

    Args:
        guard: a guard, its folder, `none` for none, or None for that of the classifier's card.
        classifier: the classifier that predicts; None where an explainer predicts by itself.
        explainer: the explainer whose pass is judged, where there is one.

    Returns:
        The guard, or None.

    Raises:
        RunError: the folder is no guard, is damaged, or belongs to another classifier or explainer.
        ConfigError: a guard is named and nobody knows the classifier.
    """
    if guard == NO_GUARD:
        return None
    if guard is None:
        return None if classifier is None else _open_own_guard(classifier, explainer)
    if classifier is None:
        raise ConfigError(
            "guard: it judges what the classifier itself predicts, and the explainer does not hold "
            "it; give --classifier SPEC"
        )
    if isinstance(guard, str | Path):
        return Guard.load(guard, classifier, explainer)
    if not isinstance(guard, Guard):
        raise ConfigError(f"guard: expected a Guard or its folder, got {type(guard).__name__}")
    own = guard.observer.classifier.fingerprint
    if own != classifier.fingerprint:
        raise RunError(
            f"guard: guards {guard.record.classifier}, not {classifier.spec}; fit a guard for it"
        )
    if guard.record.run is not None and (
        explainer is None or digest_run(explainer) != guard.record.run
    ):
        raise RunError(
            "guard: was fitted with another explainer; fit a guard with this one, or without any"
        )
    return guard


def _open_own_guard(classifier: Classifier, explainer: AnyExplainer | None) -> Guard | None:
    """Return the guard that the card of a classifier names, or None where it names none."""
    if classifier.guard_folder is None:
        return None
    try:
        return Guard.load(classifier.guard_folder, classifier, explainer)
    except RunError as error:
        raise RunError(f"{classifier.spec}: guard {error}; or {LEAVE_OUT}") from error


def attach_guard(card: str | Path, guard: str | Path, *, trust: bool = False) -> Path:
    """Write the folder of a guard into the card of its classifier, so that every verb uses it.

    >>> import apercu
    >>> apercu.attach_guard("runs/films/card.json", "runs/films/guard")  # doctest: +SKIP

    Args:
        card: the card of the classifier, or its folder.
        guard: folder of the guard, inside the folder of the card.
        trust: whether the card may name a factory, whose code is run.

    Returns:
        The path of the card.

    Raises:
        ConfigError: the folder is not inside that of the card, or there is no card.
        RunError: the folder is no guard, or guards another classifier.
        OutputError: the card cannot be written.
    """
    path = check_attachable(card, Path(guard))
    record = read_guard_record(guard)
    if record.fingerprint != open_classifier(path, trust=trust).fingerprint:
        raise RunError(f"{guard}: guards {record.classifier}, not the classifier of {path}")
    return name_in_card(path, Path(guard))


@dataclass(frozen=True)
class CheckedImage:
    """What a classifier and its guard say of one image.

    Attributes:
        name: name of the image.
        predicted: the predicted class; None where the image is wrong.
        trust: whether that may be believed; None where the image is wrong.
        error: why the image cannot be classified, else None.
    """

    name: str
    predicted: str | None = None
    trust: Trust | None = None
    error: str | None = None

    @property
    def line(self) -> str:
        """The image in one line: its class, and whether that may be believed."""
        if self.trust is None or self.predicted is None:
            return f"{self.name}: {self.error}"
        return f"{self.name}: {self.predicted.partition(',')[0]}; {self.trust.line}"

    def to_record(self) -> dict[str, Any]:
        """Return the same as JSON can hold it."""
        if self.trust is None:
            return {"image": self.name, "error": self.error}
        return {"image": self.name, "class": self.predicted, "trust": self.trust.to_record()}


def check_files(guard: Guard, images: Sequence[str | Path]) -> Iterator[CheckedImage]:
    """Classify image files, and say of each whether its class may be believed.

    >>> import apercu
    >>> guard = apercu.open_guard("runs/films/card.json")  # doctest: +SKIP
    >>> for image in apercu.check_files(guard, ["new/"]):  # doctest: +SKIP
    ...     print(image.line)

    Args:
        guard: the guard of a classifier.
        images: images, folders, or Parquet files.

    Returns:
        An iterator with one entry per image, in order; an image that cannot be classified has an
        error in its entry.

    Raises:
        ImagesError: a file or folder is missing, or holds no images.
    """
    classifier = guard.observer.classifier
    info = ClassifierInfo.from_classifier(classifier)
    sources = [classifier.open_images(spec) for spec in images]
    places = [(source, index) for source in sources for index in range(len(source))]
    for start in range(0, len(places), BATCH):
        pictures = [_read_prepared(*place, info) for place in places[start : start + BATCH]]
        whole = [image for _, image in pictures if isinstance(image, Tensor)]
        results = iter(guard.classify_each(torch.stack(whole)) if whole else ())
        for name, image in pictures:
            result = image if isinstance(image, str) else next(results)
            if isinstance(result, str):
                yield CheckedImage(name, error=result)
            else:
                yield CheckedImage(name, info.classes[result[0]], result[1])


def _read_prepared(
    source: ImageSource, index: int, info: ClassifierInfo
) -> tuple[str, Tensor | str]:
    """Return the name of an image, and its pixels or why there are none."""
    try:
        item = source[index]
        if item.moves:
            warn(f"{item.name}: this picture moves; its first frame is judged")
        image = info.prepare(item.picture)
        info.check_images(image[None])
    except InputError as error:
        return f"image {index + 1} of {source.name}", str(error)
    return item.name, image


def check_attachable(card: Classifier | str | Path, guard: Path) -> Path:
    """Return the path of a card that can name the folder of a guard.

    Args:
        card: the card of the classifier, or its folder.
        guard: folder of the guard, inside the folder of the card.

    Returns:
        The path of the card.

    Raises:
        ConfigError: there is no card, or the folder is not inside that of the card.
    """
    if isinstance(card, Classifier):
        raise ConfigError("attach: expected the path of a card, got a classifier")
    path = Path(card) / CARD_FILE if Path(card).is_dir() else Path(card)
    if path.suffix != ".json" or not path.is_file():
        raise ConfigError(
            f"attach: {card} is no card that could name the guard; write one with apercu card"
        )
    try:
        read_card(path)
    except ClassifierError as error:
        raise ConfigError(f"attach: {error}") from error
    if not is_inside(guard, path.parent) or guard.resolve() == path.parent.resolve():
        raise ConfigError(
            f"attach: {guard} is not inside {path.parent}, the folder of the card; give --out "
            f"{path.parent / 'guard'}"
        )
    return path


def name_in_card(card: Path, guard: Path) -> Path:
    """Write the folder of a guard into a card, relative to the folder of the card.

    Args:
        card: path of the card.
        guard: folder of the guard.

    Returns:
        The path of the card.

    Raises:
        OutputError: the card cannot be written.
    """
    content = parse_json(card.read_text(encoding="utf-8-sig"))
    content["guard"] = guard.resolve().relative_to(card.parent.resolve()).as_posix()
    return write_file(card, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
