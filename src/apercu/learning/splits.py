"""The parts of the labelled images: training, calibration and test, with groups kept apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Generator

from apercu.classifiers.decisions import ONE_CLASS
from apercu.errors import ConfigError, ImagesError
from apercu.images import ImageSource
from apercu.images.folder import find_files
from apercu.images.label_tables import LABELS_FILE, SEVERAL
from apercu.images.source import ChosenImages, JoinedImages
from apercu.learning.data import LabelledSet, check_classes, match_labels, read_labels_of
from apercu.learning.labels import LabelRows, find_own_table, name_images, read_label_rows
from apercu.learning.settings import LearningSettings
from apercu.log import warn

ImagesSpec: TypeAlias = str | Path | ImageSource
"""Images by their name, or opened already."""
GAPS = ("nan", "na", "n/a", "<na>", "null")
"""Labels and groups, in lower case, that programs write where there is none."""


@dataclass(frozen=True)
class LearningInputs:
    """The images of a training by their names, and the tables of their labels.

    Args:
        images: images with labels, and without.
        labels: table of the labels; those of the images themselves when None.
        group: column with what stays in one part, such as the patient: of the table of labels, or
            of the Parquet file of the images.
        test: images to measure on; a part of the labelled ones when None.
        test_labels: table of the labels of the test images.
        unlabelled: further images without labels.
    """

    images: ImagesSpec
    labels: str | Path | None = None
    group: str | None = None
    test: ImagesSpec | None = None
    test_labels: str | Path | None = None
    unlabelled: ImagesSpec | None = None

    def __post_init__(self) -> None:
        if self.test_labels is not None and self.test is None:
            raise ConfigError("test_labels: belongs to test images; name them with --test")
        if self.labels is not None:
            object.__setattr__(self, "images", name_images(self.images, self.labels))
        if self.test is not None and self.test_labels is not None:
            object.__setattr__(self, "test", name_images(self.test, self.test_labels))

    def open_labelled(
        self, open_source: Callable[[ImagesSpec], ImageSource]
    ) -> tuple[LabelledSet, ImageSource | None]:
        """Open the images to learn from: those with labels, and the others."""
        table = self._find_table(self.images, self.labels)
        return self._open(open_source(self.images), table, None, "--labels")

    def open_test(
        self, open_source: Callable[[ImagesSpec], ImageSource], learnt: LabelledSet
    ) -> LabelledSet | None:
        """Open the images to measure on, with the classes of those to learn from.

        Raises:
            ImagesError: a label is no class, or a group or a file is also among the images to learn
                from.
        """
        if self.test is None:
            return None
        table = self._find_table(self.test, self.test_labels)
        test, _ = self._open(open_source(self.test), table, learnt.classes, "--test-labels")
        if test.decision is not learnt.decision:
            raise ImagesError(
                f"{test.source.name}: its labels are of another kind than those of "
                f"{learnt.source.name}: one class per image, and several"
            )
        if both := sorted(set(test.groups or ()) & set(learnt.groups or ())):
            raise ImagesError(
                f"{test.source.name}: {len(both)} of the groups ({self.group}) are also among the "
                f"images to learn from, such as {both[0]}; keep each in one of the two"
            )
        if shared := find_files(test.source).intersection(find_files(learnt.source)):
            raise ImagesError(
                f"{test.source.name}: {len(shared)} of {len(test)} test images are also among the "
                f"images to learn from, such as {min(shared)}; leave them out of one of the two"
            )
        if test.decision is ONE_CLASS:
            check_classes(test, 0)
        return test

    def _open(
        self,
        source: ImageSource,
        table: str | Path | None,
        classes: Sequence[str] | None,
        option: str,
    ) -> tuple[LabelledSet, ImageSource | None]:
        if table is None:
            labelled = read_labels_of(source, classes)
            if self.group is not None:
                labelled = replace(labelled, groups=_read_groups(labelled, self.group, option))
            if labelled.source is source:
                return labelled, None
            rest = [index for index in range(len(source)) if source.label(index) is None]
            return labelled, ChosenImages(source, tuple(rest))
        rows = read_label_rows(table, self.group)
        if classes is None:
            for line in find_doubtful_names(rows):
                warn(line)
        return match_labels(source, rows, classes)

    def _find_table(self, images: ImagesSpec, table: str | Path | None) -> str | Path | None:
        """Return the table of labels; that of the folder for several classes, or for groups."""
        if table is not None or isinstance(images, ImageSource):
            return table
        if self.group is None:
            return find_own_table(images)
        own = Path(images) / LABELS_FILE
        return own if own.is_file() else None


def _read_groups(images: LabelledSet, column: str, option: str) -> tuple[str, ...]:
    """Return the group of each image from the table that holds the images themselves."""
    source = images.source
    groups = source.read_column(column)
    if groups is None:
        raise ImagesError(
            f"{source.name}: has no table of labels with the column {column}; name it with "
            f"{option} CSV"
        )
    if missing := groups.count(""):
        raise ImagesError(
            f"{source.name} {source.names[groups.index('')]}: expected a {column}, got nothing "
            f"({missing} of {len(groups)} labelled images have none); fill the column in"
        )
    for line in _find_doubtful_groups(groups):
        warn(f"{source.name}: {line}")
    return groups


def find_doubtful_names(rows: LabelRows) -> list[str]:
    """Find the names of classes and of groups that were probably meant otherwise.

    Args:
        rows: a table of labels.

    Returns:
        One line about each.
    """
    groups = rows.groups or {}
    doubts = _find_doubtful_groups(groups[file] for file in rows.labels if file in groups)
    if not rows.has_columns:
        doubts += _find_doubtful_classes(rows)
    return [f"{rows.path}: {doubt}" for doubt in doubts]


def _find_doubtful_groups(groups: Iterable[str]) -> list[str]:
    """Find groups of images whose name says that nobody filled in the cell."""
    return [
        f"{name} is one group, of {size} labelled images; write the group of each where nobody "
        "filled it in"
        for name, size in Counter(groups).items()
        if name.lower() in GAPS
    ]


def _find_doubtful_classes(rows: LabelRows) -> list[str]:
    """Find classes that stand for an unknown one, are written in two ways, or are several."""
    counts = Counter(word for words in rows.labels.values() for word in words)
    doubts = [
        f"{name} is a class, of {counts[name]} images; leave the cell empty where nobody knows"
        for name in rows.classes
        if name.lower() in GAPS
    ]
    alike: dict[str, list[str]] = {}
    for name in rows.classes:
        alike.setdefault(name.casefold(), []).append(name)
    doubts += [
        f"{' and '.join(names)} are {len(names)} classes; write them alike if they are one"
        for names in alike.values()
        if len(names) > 1
    ]
    if joined := _find_joined_names(rows):
        hint = f"call the column {SEVERAL} if | stands between several"
        if rows.is_multiple:
            hint = "write | between them if it is several"
        doubts.append(f"{joined[0]} is a class of its own; {hint}")
    return doubts


def _find_joined_names(rows: LabelRows) -> list[str]:
    """Find classes whose names are probably several names, with a mark between them."""
    if not rows.is_multiple:
        return [name for name in rows.classes if "|" in name]
    pieces = {name: [*map(str.strip, re.split("[,;/]", name))] for name in rows.classes}
    separates = any(len(words) > 1 for words in rows.labels.values())  # somebody has written |
    repeated = Counter(word for words in pieces.values() for word in words if not separates)
    return [
        name
        for name, words in pieces.items()
        if len(words) > 1 and any(w in rows.classes or repeated[w] > 1 for w in words)
    ]


class LearningParts(NamedTuple):
    """The three parts of the labelled images, the images without labels, and their rows.

    Attributes:
        training: images to train on.
        calibration: images that set the temperature.
        test: images to measure on.
        unlabelled: images without labels; None where there are none.
        without_label: number of rows of the tables that give no label, as nobody knows any class.
    """

    training: LabelledSet
    calibration: LabelledSet
    test: LabelledSet
    unlabelled: ImageSource | None
    without_label: int = 0

    def describe_shared(self) -> str:
        """Return one line about images without labels that also measure; empty without any."""
        if self.unlabelled is None:
            return ""
        measuring = find_files(self.calibration.source) | find_files(self.test.source)
        pools: tuple[ImageSource, ...] = (self.unlabelled,)
        if isinstance(self.unlabelled, JoinedImages):
            pools = self.unlabelled.sources
        shared = set[Path]().union(*map(find_files, pools)).intersection(measuring)
        if not shared:
            return ""
        return (
            f"{self.unlabelled.name}: {len(shared)} of {len(self.unlabelled)} images without "
            f"labels also calibrate or measure, such as {min(shared).name}; the figures may be too "
            "good for other images"
        )

    def describe_split_files(self) -> str:
        """Return one line about files whose pages are in several parts; empty without any."""
        if self.training.groups is not None:
            return ""
        parts = [find_files(part.source) for part in (self.training, self.calibration, self.test)]
        shared = set.union(*(one & other for one, other in combinations(parts, 2)))
        if not shared:
            return ""
        return (
            f"{self.training.source.name}: the pages of {len(shared)} files are in several parts, "
            f"such as those of {min(shared).name}, as each has a label of its own; if they show "
            "one object, give the table a column that names it, and --group"
        )

    def describe_unknown(self) -> str:
        """Return one line about labels that nobody knows; empty where all are known."""
        parts = {"training": self.training, "calibration": self.calibration, "test": self.test}
        counts = {name: part.count_unknown() for name, part in parts.items()}
        total = sum(part.targets.numel() for part in parts.values())
        sentences = []
        if unknown := sum(counts.values()):
            each = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            sentences.append(
                f"{unknown:,} of {total:,} cells of the table are unknown and not used ({each})"
            )
        if count := self.without_label:
            rows = f"{count:,} rows count" if count > 1 else "1 row counts"
            is_multiple = self.training.decision.is_multiple
            reason = "all cells are unknown" if is_multiple else "the cell is empty or unknown"
            sentences.append(f"{rows} as without label, as {reason}")
        return "; ".join(sentences)


def split_images(
    settings: LearningSettings,
    inputs: LearningInputs,
    open_source: Callable[[ImagesSpec], ImageSource],
    seed: int,
) -> LearningParts:
    """Open images and split those with labels into the parts for training and measurement.

    Args:
        settings: the fractions of the parts.
        inputs: names of the images and of their labels.
        open_source: opens images by their name, with the channels of the network.
        seed: seed of the split.

    Returns:
        The parts.

    Raises:
        ImagesError: labels are missing, too few, or do not fit.
    """
    labelled, others = inputs.open_labelled(open_source)
    test = inputs.open_test(open_source, labelled)
    check_classes(labelled, 2 if test is not None else 3)
    further = None if inputs.unlabelled is None else open_source(inputs.unlabelled)
    pool = _join_sources([source for source in (others, further) if source is not None])
    count = labelled.unlabelled + (0 if test is None else test.unlabelled)
    calibration = settings.calibration
    fractions = [1 - calibration, calibration]
    if test is None:
        fractions = [1 - calibration - settings.test, calibration, settings.test]
    chosen = [labelled.choose(part) for part in split_by_class(labelled, fractions, seed)]
    parts = LearningParts(chosen[0], chosen[1], chosen[2] if test is None else test, pool, count)
    if line := parts.describe_split_files():
        warn(line)
    return parts


def _join_sources(sources: Sequence[ImageSource]) -> ImageSource | None:
    """Return the images of all sources, one after the other; None without sources."""
    if len(sources) > 1:
        return JoinedImages(tuple(sources))
    return sources[0] if sources else None


def split_by_class(images: LabelledSet, fractions: Sequence[float], seed: int) -> list[list[int]]:
    """Split images into parts, class by class; a group stays in one part.

    The rarest class, or absence of a class that may be one of several, is dealt out first, each
    group to the part that lacks most of it (iterative stratification, Sechidis et al. 2011); the
    last ones to the parts that have none.

    Args:
        images: labelled images.
        fractions: fraction of the images in each part; they sum to 1.
        seed: seed of the order.

    Returns:
        The indices of each part, in ascending order.
    """
    units: dict[str, list[int]] = {}
    for index, unit in enumerate(images.units):
        units.setdefault(unit, []).append(index)
    names = sorted(units)
    order = torch.randperm(len(names), generator=Generator().manual_seed(seed)).tolist()
    remaining = [names[index] for index in order]
    present, lacking = images.targets == 1, images.targets == 0
    absent = ~present.any(1, keepdim=True)
    rarely = 2 * lacking.sum(0) < len(images)  # classes whose absence is rare
    if not images.decision.is_multiple:
        rarely.zero_()
    table = torch.cat([present, absent, lacking[:, rarely]], 1).double()
    counts = {name: table[units[name]].sum(0) for name in remaining}
    missing = torch.tensor(fractions, dtype=torch.double)[:, None] * table.sum(0)
    wanted = missing.clone()
    sizes = torch.tensor(fractions, dtype=torch.double) * len(images)
    parts: list[list[int]] = [[] for _ in fractions]
    while remaining:
        totals = torch.stack([counts[name] for name in remaining]).sum(0)
        rarest = int(torch.where(totals > 0, totals, torch.inf).argmin())
        having = [name for name in remaining if counts[name][rarest] > 0]
        for number, name in enumerate(having):
            needs = missing[:, rarest]
            empty = (needs == wanted[:, rarest]) & (sizes > 0)
            if len(having) - number <= int(empty.sum()):
                needs = needs.where(empty, -torch.inf)
            best = [index for index, need in enumerate(needs) if need >= needs.max() - 1e-9]
            part = max(best, key=lambda index: float(sizes[index]))
            parts[part] += units[name]
            missing[part] -= counts[name]
            sizes[part] -= len(units[name])
            remaining.remove(name)
    return [sorted(part) for part in parts]
