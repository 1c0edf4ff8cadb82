"""The features of the images of a folder, kept beside each other so that each is computed once.

index.json            what the features depend on: classifier, what explains, images
cases.safetensors     features, logits and regions, and in its header the name of each image
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from apercu.classifiers.names import ClassNames
from apercu.errors import ImageError, ImagesError, RunError, TargetError
from apercu.images import ImageSource, batches
from apercu.images.folder import FolderImages
from apercu.images.stream import describe_left_out
from apercu.io import is_file, is_folder, parse_json, write_file
from apercu.log import warn
from apercu.progress import ProgressCallback, ignore_progress
from apercu.run_record import SAVE_EVERY, RunRecord
from apercu.types import Logits

if TYPE_CHECKING:
    from apercu.learning.case_features import CaseEncoder, EncodedCases

SETTINGS, CASES = "index.json", "cases.safetensors"
BATCH = 32
"""Images that are encoded together."""


class IndexSettings(BaseModel):
    """What the features of an index depend on.

    Attributes:
        classifier: fingerprint of the classifier.
        region: identity of what explains; `none` without regions.
        images: the images, and the bands of FITS files.
        version: number that changes where the features are computed in another way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    classifier: str
    region: str
    images: str
    version: Literal[1] = 1


class Case(NamedTuple):
    """One image of an index.

    Attributes:
        name: its name in the source of the images.
        stamp: size and time of its file, which tell whether it has changed; empty where there is
            no file.
        label: its label as it is stored; None where it has none.
    """

    name: str
    stamp: str
    label: str | int | None


@dataclass(frozen=True, eq=False)
class CaseIndex:
    """The features of all readable images of a source, one row for each.

    Attributes:
        source: the images.
        positions: index of each case in the source.
        cases: name and label of each case.
        logits: logits, `cases × classes`.
        features: means of the deepest feature map, `cases × features`.
        weights: weights of the positions in the explained region, `cases × rows × columns`; None
            without regions.
        region_features: features of the explained region, `cases × features`; None without.
        unread: why images were left out, one line for each.
    """

    source: ImageSource
    positions: tuple[int, ...]
    cases: tuple[Case, ...]
    logits: Logits
    features: Float[Tensor, "cases features"]
    weights: Float[Tensor, "cases rows columns"] | None = None
    region_features: Float[Tensor, "cases features"] | None = None
    unread: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    def list_labels(self, names: ClassNames) -> list[str | None]:
        """Return the label of each case as the classifier names it, or as it is stored.

        Args:
            names: names of the classifier's classes.

        Returns:
            One short name per case; None for a case without a label.
        """
        read: dict[str | int, str] = {}
        for case in self.cases:
            if case.label is not None and case.label not in read:
                read[case.label] = name_label(case.label, self.source.class_names, names)
        return [None if case.label is None else read[case.label] for case in self.cases]


def name_label(label: str | int, class_names: Sequence[str] | None, names: ClassNames) -> str:
    """Return a label as the classifier names it; as it is stored where the classifier lacks it.

    Args:
        label: name or index of a class.
        class_names: names of the classes of the images, which an index counts.
        names: names of the classifier's classes.

    Returns:
        The short name of the class; of a label that names none, the first of several synonyms.
    """
    if isinstance(label, int) and class_names is not None and label < len(class_names):
        label = class_names[label]
    with suppress(TargetError):
        return names.short_names[names.find_label(label)]
    return str(label).partition(",")[0]


def format_distance(distance: float) -> str:
    """Return a distance with more digits where it is small, as small networks have them.

    >>> [format_distance(distance) for distance in (0.51234, 0.00812, 0.000081)]
    ['0.512', '0.00812', '0.00008']
    """
    return f"{distance:.{3 if distance >= 0.01 else 5}f}"


def build_index(
    encoder: CaseEncoder,
    source: ImageSource,
    folder: Path | None = None,
    progress: ProgressCallback = ignore_progress,
) -> CaseIndex:
    """Compute the features of all images, or of those that a kept index lacks.

    The index is kept every minute, and when the work is interrupted; the same call continues.
    Images that were added or have changed are computed, and those that are gone are left out.

    Args:
        encoder: computes the features.
        source: the images.
        folder: where the index is kept; None keeps nothing.
        progress: receives how many images are done.

    Returns:
        The index of all images that can be read.

    Raises:
        RunError: the folder holds the index of another classifier or of other images, is damaged,
            or another process works there.
        ImagesError: no image can be read.
        OutputError: the folder cannot be written.
    """
    if folder is None:
        return _fill_index(encoder, source, None, progress)
    settings = IndexSettings(
        classifier=encoder.classifier.fingerprint,
        region=encoder.region,
        images=identify_images(source),
    )
    record = RunRecord(folder, {SETTINGS: settings}, "index")
    with record.begin():
        return _fill_index(encoder, source, folder / CASES, progress)


def read_index(folder: Path, source: ImageSource, encoder: CaseEncoder) -> CaseIndex:
    """Read a finished index, of which nothing is computed and which is not written.

    Args:
        folder: the folder of the index.
        source: the images.
        encoder: computed the features.

    Returns:
        The index.

    Raises:
        RunError: there is no index of this classifier, or it is damaged.
    """
    path = folder / SETTINGS
    try:
        settings = IndexSettings.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: no index, or damaged; `apercu similar` writes one") from error
    if (settings.classifier, settings.region) != (
        encoder.classifier.fingerprint,
        encoder.region,
    ):
        raise RunError(f"{folder}: the index of another classifier or another explainer")
    return _read_kept(folder / CASES).select(source, ())


def _fill_index(
    encoder: CaseEncoder, source: ImageSource, path: Path | None, progress: ProgressCallback
) -> CaseIndex:
    names = source.names
    stamps = list_stamps(source)
    kept = _Rows() if path is None else _read_kept(path)
    rows = kept.keep_present(set(zip(names, stamps, strict=True)))
    computed = {case.name for case in rows.cases}
    missing = [index for index, name in enumerate(names) if name not in computed]
    errors: list[ImageError] = []
    done, saved_at = len(names) - len(missing), time.monotonic()
    progress("images", done, len(names))
    has_grown = bool(missing) or len(rows.cases) != len(kept.cases)
    try:
        for batch in batches(
            source, encoder.classifier.prepare, BATCH, indices=missing, skip=errors.append
        ):
            cases = [
                Case(name, stamps[index], label)
                for index, name, label in zip(batch.indices, batch.names, batch.labels, strict=True)
            ]
            rows.add(cases, encoder.encode(batch.images))
            done += len(cases)
            progress("images", done + len(errors), len(names))
            if path is not None and time.monotonic() - saved_at >= SAVE_EVERY:
                rows.write(path)
                saved_at = time.monotonic()
    finally:
        if path is not None and has_grown and rows.cases:
            rows.write(path)
    progress("images", len(names), len(names))
    if not rows.cases:
        raise ImagesError(f"{source.name}: none of {len(names)} images can be read, {errors[0]}")
    if errors:
        warn(describe_left_out(source.name, errors, len(names)))
    return rows.select(source, tuple(map(str, errors)))


def identify_images(source: ImageSource) -> str:
    """Return the path of images, with the bands that are read where there are any."""
    path = Path(source.name)
    name = str(path.resolve()) if is_folder(path) or is_file(path) else source.name
    bands = source.bands if isinstance(source, FolderImages) else None
    return name if bands is None else f"{name} ({', '.join(bands)})"


def list_stamps(source: ImageSource) -> list[str]:
    """Return size and time of the file of each image of a source; empty where there is none."""
    if isinstance(source, FolderImages):
        return [_stamp(source.path / location.file) for location in source.locations]
    return [_stamp(Path(source.name))] * len(source)


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except (OSError, ValueError):  # planted images have no file
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


@dataclass
class _Rows:
    """The rows of an index while it is filled, in the order in which they were computed."""

    cases: list[Case] = field(default_factory=list)
    parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, cases: Sequence[Case], encoded: EncodedCases) -> None:
        """Add the images of a batch."""
        self.cases += cases
        tensors = {
            "logits": encoded.logits,
            "features": encoded.features,
            "weights": encoded.weights,
            "region_features": encoded.region_features,
        }
        for name, tensor in tensors.items():
            if tensor is not None:
                self.parts.setdefault(name, []).append(tensor.float())

    def join(self) -> dict[str, Tensor]:
        """Return one tensor per name, with a row for each case."""
        self.parts = {name: [torch.cat(parts)] for name, parts in self.parts.items()}
        return {name: parts[0] for name, parts in self.parts.items()}

    def take(self, chosen: Sequence[int]) -> _Rows:
        """Return chosen rows, in this order."""
        tensors = {name: [tensor[list(chosen)]] for name, tensor in self.join().items()}
        return _Rows([self.cases[row] for row in chosen], tensors)

    def keep_present(self, present: set[tuple[str, str]]) -> _Rows:
        """Return the rows of the images that are still there, unchanged."""
        chosen = [row for row, case in enumerate(self.cases) if (case.name, case.stamp) in present]
        return self if len(chosen) == len(self.cases) else self.take(chosen)

    def write(self, path: Path) -> None:
        """Write all rows, and the names of the images in the header."""
        header = {"cases": json.dumps(self.cases)}
        tensors = {name: tensor.contiguous() for name, tensor in self.join().items()}
        write_file(path, save(tensors, header))

    def select(self, source: ImageSource, unread: tuple[str, ...]) -> CaseIndex:
        """Return the index, in the order of the source, with the labels that it has now."""
        row_of = {case.name: row for row, case in enumerate(self.cases)}
        positions = [index for index, name in enumerate(source.names) if name in row_of]
        if not positions:
            raise RunError(f"{source.name}: the index holds none of its images")
        rows = self.take([row_of[source.names[index]] for index in positions])
        labels = source.labels if isinstance(source, FolderImages) else None
        if isinstance(source, FolderImages):
            rows.cases = [
                case._replace(label=None if labels is None else labels[index])
                for case, index in zip(rows.cases, positions, strict=True)
            ]
        return CaseIndex(source, tuple(positions), tuple(rows.cases), **rows.join(), unread=unread)


def _read_kept(path: Path) -> _Rows:
    """Return the rows that a file holds; none where there is no file."""
    if not path.is_file():
        return _Rows()
    try:
        with safe_open(path, "pt") as file:
            cases = [Case(*row) for row in parse_json(file.metadata()["cases"])]
            tensors = {name: [file.get_tensor(name)] for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"{path}: the index is damaged; remove its folder, and it is computed anew"
        ) from error
    if any(len(parts[0]) != len(cases) for parts in tensors.values()):
        raise RunError(f"{path}: the index is damaged; remove its folder, and it is computed anew")
    return _Rows(cases, tensors)
