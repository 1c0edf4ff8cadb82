"""Labelled images and their parts: training, calibration and test, with groups kept apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS, Decision
from apercu.errors import ImageError, ImagesError
from apercu.images import ImageSource, open_images
from apercu.images.folder import FolderImages
from apercu.images.source import ChosenImages
from apercu.learning.settings import LearningSettings
from apercu.log import warn
from apercu.progress import ProgressCallback, ignore_progress


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images whose classes are known.

    Args:
        source: the images.
        classes: names of the classes.
        targets: true probabilities: 1 where a class is true, else 0.
        decision: one class of an image is true, or each class by itself.
        groups: what the images belong to, such as a patient; None where each stands for itself.
    """

    source: ImageSource
    classes: tuple[str, ...]
    targets: Float[Tensor, "images classes"]
    decision: Decision
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def units(self) -> tuple[str, ...]:
        """What may not be split: the group of each image, or its name."""
        return self.source.names if self.groups is None else self.groups

    @property
    def digest(self) -> str:
        """A text that changes with the names, the labels and the groups."""
        content = [self.classes, self.source.names, self.groups, self.targets.tolist()]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:32]

    def choose(self, indices: Sequence[int]) -> LabelledImages:
        """Return some of the images, in the order of their indices."""
        chosen = ChosenImages(self.source, tuple(indices))
        groups = None if self.groups is None else tuple(self.groups[i] for i in indices)
        targets = self.targets[torch.tensor(list(indices), dtype=torch.long)]
        return replace(self, source=chosen, targets=targets, groups=groups)


def read_labels_of(source: ImageSource, classes: Sequence[str] | None = None) -> LabelledImages:
    """Return a source with the labels that its images have: the folder of each, or a table.

    Args:
        source: the images.
        classes: names of the classes; those that occur when None.

    Returns:
        The images with their classes.

    Raises:
        ImagesError: an image has no label, or one that is no class.
    """
    if not source.labelled:
        raise ImagesError(
            f"{source.name}: has no labels; use a folder per class, labels.csv or --labels CSV"
        )
    labels: Sequence[str | int | None]
    if isinstance(source, FolderImages) and source.labels is not None:
        labels = source.labels
    else:
        labels = [source[index].label for index in range(len(source))]
    if numbers := [label for label in labels if isinstance(label, int)]:
        width = len(str(max(numbers)))
        words = [str(label).zfill(width) for label in labels]
    else:
        words = [str(label) for label in labels]
    names = tuple(sorted(set(words))) if classes is None else tuple(classes)
    index_of = {name: index for index, name in enumerate(names)}
    if unknown := next((word for word in words if word not in index_of), None):
        raise ImagesError(
            f"{source.name}: {unknown} is no class of the images to learn from ({', '.join(names)})"
        )
    rows = torch.tensor([index_of[word] for word in words], dtype=torch.long)
    targets = torch.nn.functional.one_hot(rows, len(names)).float()
    return LabelledImages(source, names, targets, ONE_CLASS)


def check_classes(images: LabelledImages, fewest: int) -> None:
    """Check that there are enough images of every class.

    Args:
        images: labelled images.
        fewest: number of images, or of groups, that each class needs.

    Raises:
        ImagesError: all labels are equal, or a class is too rare.
    """
    present = images.targets.sum(0)
    name = images.source.name
    occurring = [c for c, n in zip(images.classes, present.tolist(), strict=True) if n > 0]
    if images.decision is ONE_CLASS and len(occurring) < 2:
        raise ImagesError(
            f"{name}: all labels are {occurring[0] if occurring else 'missing'}; expected at least "
            "two classes"
        )
    unit = "images" if images.groups is None else "groups"
    for index, class_name in enumerate(images.classes):
        members = {
            each
            for each, value in zip(images.units, images.targets[:, index].tolist(), strict=True)
            if value
        }
        if len(members) < fewest:
            raise ImagesError(
                f"{name}: the class {class_name} has {len(members)} {unit}, expected at least "
                f"{fewest}, as each part needs one; label more of them, or leave the class out"
            )
        if images.decision is EACH_CLASS and float(present[index]) == len(images):
            raise ImagesError(
                f"{name}: every image has the class {class_name}; leave the class out"
            )


def split_by_class(
    images: LabelledImages, fractions: Sequence[float], seed: int
) -> list[list[int]]:
    """Split images into parts, class by class; a group stays in one part.

    The rarest class is dealt out first, each group to the part that lacks most of the class
    (iterative stratification, Sechidis et al. 2011).

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
    absent = (images.targets.sum(1) == 0).float()[:, None]
    table = torch.cat([images.targets, absent], 1).double()
    counts = {name: table[units[name]].sum(0) for name in remaining}
    lacks = torch.tensor(fractions, dtype=torch.double)[:, None] * table.sum(0)
    sizes = torch.tensor(fractions, dtype=torch.double) * len(images)
    parts: list[list[int]] = [[] for _ in fractions]
    while remaining:
        left = torch.stack([counts[name] for name in remaining]).sum(0)
        rarest = int(torch.where(left > 0, left, torch.inf).argmin())
        for name in [name for name in remaining if counts[name][rarest] > 0]:
            share = lacks[:, rarest]
            best = [i for i in range(len(parts)) if share[i] >= float(share.max()) - 1e-9]
            part = max(best, key=lambda index: float(sizes[index]))
            parts[part] += units[name]
            lacks[part] -= counts[name]
            sizes[part] -= len(units[name])
            remaining.remove(name)
    return [sorted(part) for part in parts]


class LearningParts(NamedTuple):
    """The three parts of the labelled images, and the images without labels."""

    training: LabelledImages
    calibration: LabelledImages
    test: LabelledImages
    unlabelled: ImageSource | None


def split_images(
    settings: LearningSettings,
    start: Classifier,
    images: str | Path | ImageSource,
    test: str | Path | ImageSource | None,
    unlabelled: str | Path | ImageSource | None,
    seed: int,
) -> LearningParts:
    """Open images and split those with labels into the parts for training and measurement.

    Args:
        settings: the fractions of the parts.
        start: the network, whose channels the images get.
        images: labelled images.
        test: labelled images to measure on; a part of the labelled ones when None.
        unlabelled: images without labels.
        seed: seed of the split.

    Returns:
        The parts.

    Raises:
        ImagesError: labels are missing, too few, or do not fit.
    """

    def open_source(spec: str | Path | ImageSource) -> ImageSource:
        if isinstance(spec, ImageSource):
            return spec
        return open_images(spec, channels=start.channels, bands=start.bands)

    labelled = read_labels_of(open_source(images))
    check_classes(labelled, 2 if test is not None else 3)
    pool = None if unlabelled is None else open_source(unlabelled)
    calibration = settings.calibration
    if test is not None:
        measured = read_labels_of(open_source(test), labelled.classes)
        first, second = split_by_class(labelled, (1 - calibration, calibration), seed)
        return LearningParts(labelled.choose(first), labelled.choose(second), measured, pool)
    fractions = (1 - calibration - settings.test, calibration, settings.test)
    first, second, third = split_by_class(labelled, fractions, seed)
    chosen = (labelled.choose(part) for part in (first, second, third))
    return LearningParts(*chosen, pool)


def prepare_images(
    source: ImageSource,
    classifier: Classifier,
    report: ProgressCallback = ignore_progress,
    title: str = "images",
) -> tuple[list[int], Tensor]:
    """Prepare all images of a source that can be read; the others are left out with a warning.

    Args:
        source: the images.
        classifier: the classifier that prepares them.
        report: receives how many are read, and how many there are.
        title: the name of the work.

    Returns:
        The indices of the images that can be read, and the images,
        `images × channels × height × width`.

    Raises:
        ImagesError: most of the images cannot be read.
    """
    readable: list[int] = []
    prepared: list[Tensor] = []
    errors: list[str] = []
    for index in range(len(source)):
        try:
            prepared.append(classifier.prepare(source[index].picture))
            readable.append(index)
        except ImageError as error:
            errors.append(str(error))
        report(title, index + 1, len(source))
    if len(errors) > len(readable):
        raise ImagesError(
            f"{source.name}: {len(errors)} of {len(source)} images cannot be used, the first "
            f"because {errors[0]}"
        )
    if errors:
        warn(f"{source.name}: {len(errors)} images are left out; the first because {errors[0]}")
    return readable, torch.stack(prepared)


def read_part(
    part: LabelledImages, classifier: Classifier, report: ProgressCallback, title: str
) -> tuple[LabelledImages, Tensor]:
    """Prepare the images of a part; those that cannot be read are left out.

    Args:
        part: labelled images.
        classifier: the classifier that prepares them.
        report: receives how many are read, and how many there are.
        title: the name of the work.

    Returns:
        The images that can be read, with their labels, and as tensors.
    """
    readable, prepared = prepare_images(part.source, classifier, report, title)
    return (part if len(readable) == len(part) else part.choose(readable)), prepared
