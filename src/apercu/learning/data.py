"""Labelled images and their parts: training, calibration and test, with groups kept apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS, Decision
from apercu.classifiers.distillation_data import PreparedImages
from apercu.errors import ImageError, ImagesError, suggest_nearest
from apercu.images import ImageSource
from apercu.images.folder import list_files
from apercu.images.source import ChosenImages
from apercu.images.stream import describe_left_out, list_unread
from apercu.learning.labels import LabelRows, sort_classes
from apercu.log import warn
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.data import MAX_CACHED_BYTES, TrainingImages

MOST_NAMED = 12
"""Classes and columns that are named in one line."""


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Images whose classes are known.

    Args:
        source: the images.
        classes: names of the classes.
        targets: true probabilities: 1 where a class is true, else 0; NaN where nobody knows.
        decision: one class of an image is true, or each class by itself.
        groups: what the images belong to, such as a patient; None where each stands for itself.
        unused: columns of the table of labels that hold neither labels nor groups.
        unlabelled: number of rows of the table that give no label, as nobody knows any class.
        files: file of each image whose label is that of the whole file, else the image's name; None
            where images are no files of a folder.
    """

    source: ImageSource
    classes: tuple[str, ...]
    targets: Float[Tensor, "images classes"]
    decision: Decision
    groups: tuple[str, ...] | None = None
    unused: tuple[str, ...] = ()
    unlabelled: int = 0
    files: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def units(self) -> tuple[str, ...]:
        """What may not be split: the group of each image, or its file, or its name."""
        return self.groups or self.files or self.source.names

    @property
    def digest(self) -> str:
        """A text that changes with the names, the labels and the groups."""
        content = [self.classes, self.source.names, self.groups, self.targets.tolist()]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:32]

    def describe_classes(self) -> str:
        """Return one line about the classes, and the columns of the table that are not used."""
        words = ", each by itself" if self.decision.is_multiple else ", one per image"
        line = f"{len(self.classes)} classes{words}: {_list_names(self.classes)}"
        return line + (f"; columns not used: {_list_names(self.unused)}" if self.unused else "")

    def describe_gaps(self) -> str:
        """Return which classes no image has, or every image; empty where there are none."""
        is_partly_unknown = self.count_unknown() > 0
        has = "is known to have" if is_partly_unknown else "has"
        present, absent = count_labels(self.targets)
        missing = [name for name, n in zip(self.classes, present, strict=True) if n == 0]
        gaps = [f"no image {has} {_list_names(missing)}"] if missing else []
        counts = zip(self.classes, present, absent, strict=True)
        everywhere = [name for name, n, others in counts if others == 0 and n > 0]
        if everywhere and (self.decision.is_multiple or not missing):
            start = "no image is known to be without" if is_partly_unknown else "every image has"
            gaps.append(f"{start} {_list_names(everywhere)}")
        return ", and ".join(gaps)

    def count_unknown(self) -> int:
        """Return of how many images and classes nobody knows whether the image has the class."""
        return int(self.targets.isnan().sum())

    def count_measurable(self) -> int:
        """Return of how many classes some images have them, and some have not."""
        present, absent = count_labels(self.targets)
        return int(((present > 0) & (absent > 0)).sum())

    def choose(self, indices: Sequence[int]) -> LabelledSet:
        """Return some of the images, in the order of their indices."""
        chosen = ChosenImages(self.source, tuple(indices))
        groups = None if self.groups is None else tuple(self.groups[i] for i in indices)
        files = None if self.files is None else tuple(self.files[i] for i in indices)
        targets = self.targets[torch.tensor(list(indices), dtype=torch.long)]
        return replace(self, source=chosen, targets=targets, groups=groups, files=files)


def count_labels(targets: Float[Tensor, "images classes"]) -> Float[Tensor, "2 classes"]:
    """Count the images that are known to have each class, and those that are known not to.

    >>> count_labels(torch.tensor([[1.0, 0.0], [1.0, float("nan")]])).tolist()
    [[2.0, 0.0], [0.0, 1.0]]
    """
    return torch.stack([(targets == value).sum(0) for value in (1, 0)]).float()


def _list_names(names: Sequence[str]) -> str:
    """Return names for a line of text; of many only the first."""
    more = f" … and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def read_labels_of(source: ImageSource, classes: Sequence[str] | None = None) -> LabelledSet:
    """Return the images of a source that have a label: the folder of each, or a table.

    Args:
        source: the images.
        classes: names of the classes; those that occur when None.

    Returns:
        The images with their classes.

    Raises:
        ImagesError: no image has a label, or one has a label that is no class.
    """
    labels = [source.label(index) for index in range(len(source) if source.labelled else 0)]
    known = tuple(index for index, label in enumerate(labels) if label is not None)
    if not known:
        raise ImagesError(
            f"{source.name}: has no labels; use a folder per class, labels.csv or --labels CSV"
        )
    words = [(str(labels[index]),) for index in known]
    source = source if len(known) == len(source) else ChosenImages(source, known)
    names = sort_classes({word for (word,) in words}) if classes is None else tuple(classes)
    targets, files = _make_targets(source.name, words, names), list_files(source)
    return LabelledSet(source, names, targets, ONE_CLASS, files=files)


def match_labels(
    source: ImageSource, rows: LabelRows, classes: Sequence[str] | None = None
) -> tuple[LabelledSet, ImageSource | None]:
    """Return the images that a table gives labels, and those that it does not name.

    Args:
        source: the images; labels of their own are not used.
        rows: the table.
        classes: names of the classes; those of the table when None.

    Returns:
        The images with labels, and the others; None where there are no others.

    Raises:
        ImagesError: no image is in the table, a label is no class, or nothing is known of a class.
    """
    matched = rows.match(source)
    missing = sorted(set(rows.labels).difference(matched.values()))
    if missing:
        warn(
            f"{rows.path}: {len(missing)} of {len(rows.labels)} labels belong to no image of "
            f"{source.name}, such as that of {missing[0]}; they are not used"
        )
    names = rows.classes if classes is None else tuple(classes)
    unknown = {index: rows.find_unknown(file, names) for index, file in matched.items()}
    chosen = [index for index in matched if len(unknown[index]) < max(1, len(names))]
    if not chosen:
        raise ImagesError(
            f"{rows.path}: says of no image whether it has one of {_list_names(names)}; expected 0 "
            "or 1 in a column of one of these classes"
        )
    files = [matched[index] for index in chosen]
    targets = _make_targets(str(rows.path), [rows.labels[file] for file in files], names)
    for row, index in enumerate(chosen):
        targets[row, unknown[index]] = torch.nan
    labelled = LabelledSet(
        ChosenImages(source, tuple(chosen)),
        names,
        targets,
        EACH_CLASS if rows.is_multiple else ONE_CLASS,
        None if rows.groups is None else tuple(rows.groups[file] for file in files),
        rows.unused,
        len(rows.unlabelled) + len(matched) - len(chosen),
        rows.name_labelled(source, {index: matched[index] for index in chosen}),
    )
    others = tuple(sorted(set(range(len(source))).difference(chosen)))
    return labelled, ChosenImages(source, others) if others else None


def _make_targets(
    where: str, labels: Sequence[tuple[str, ...]], classes: Sequence[str]
) -> Float[Tensor, "images classes"]:
    """Return 1 for each true class of each image; raises ImagesError for a label that is none."""
    index_of = {name: index for index, name in enumerate(classes)}
    targets = torch.zeros(len(labels), len(classes))
    for row, words in enumerate(labels):
        for word in words:
            if word not in index_of:
                raise ImagesError(
                    f"{where}: {word} is no class of the images to learn from "
                    f"({', '.join(classes)}){suggest_nearest(word, classes)}"
                )
            targets[row, index_of[word]] = 1
    return targets


def check_classes(images: LabelledSet, fewest: int, each: str = "part") -> None:
    """Check that there are enough images of every class.

    Args:
        images: labelled images.
        fewest: number of images, or of groups, that each class needs; where each class is decided
            by itself, as many must not have it.
        each: what needs one of every class, for the error.

    Raises:
        ImagesError: all labels are equal, or a class, or its absence, is too rare.
    """
    present, absent = count_labels(images.targets)
    name = images.source.name
    occurring = [c for c, n in zip(images.classes, present.tolist(), strict=True) if n > 0]
    if images.decision is ONE_CLASS and len(occurring) < 2:
        raise ImagesError(
            f"{name}: all labels are {occurring[0] if occurring else 'missing'}; expected at least "
            "two classes"
        )
    if len(images.classes) < 2:
        raise ImagesError(
            f"{name}: the only class is {images.classes[0] if images.classes else 'missing'}; give "
            "a column `label` with two classes"
        )
    unit = "group" if images.groups else "image" if images.units == images.source.names else "file"
    for index, class_name in enumerate(images.classes):
        if images.decision is EACH_CLASS and not absent[index] and present[index]:
            known = " of which it is known" if images.count_unknown() else ""
            raise ImagesError(
                f"{name}: every image{known} has the class {class_name}; leave the class out"
            )
        column = list(zip(images.units, images.targets[:, index].tolist(), strict=True))
        for value, words in ((1, "has"), (0, "is absent from")):
            members = {each for each, target in column if target == value}
            if len(members) < fewest and (value or images.decision is EACH_CLASS):
                raise ImagesError(
                    f"{name}: the class {class_name} {words} {len(members)} {unit}"
                    f"{'' if len(members) == 1 else 's'}, expected at least {fewest}, as each "
                    f"{each} needs one; label more of them, or leave the class out"
                )


def prepare_images(
    source: ImageSource,
    classifier: Classifier,
    report: ProgressCallback = ignore_progress,
    title: str = "images",
) -> tuple[list[int], PreparedImages]:
    """Prepare all images of a source that can be read; the others are left out with a warning.

    They are kept in memory if they take less than `MAX_CACHED_BYTES`, and read at every use else.

    Args:
        source: the images.
        classifier: the classifier that prepares them.
        report: receives how many are read, and how many there are.
        title: the name of the work.

    Returns:
        The indices of the images that can be read, and the images at the classifier's size.

    Raises:
        ImagesError: most of the images cannot be read.
    """
    readable: list[int] = []
    prepared: list[Tensor] = []
    errors: list[ImageError] = []
    is_small = True
    for index in range(len(source)):
        try:
            image = classifier.prepare(source[index].picture)
            readable.append(index)
            is_small = is_small and image.nbytes * len(readable) <= MAX_CACHED_BYTES
            if is_small:
                prepared.append(image)
            else:
                prepared.clear()
        except ImageError as error:
            errors.append(error)
        report(title, index + 1, len(source))
    if len(errors) > len(readable):
        raise ImagesError(
            f"{source.name}: {len(errors)} of {len(source)} images cannot be used, the first "
            f"because {errors[0]}"
        )
    if errors:
        warn(describe_left_out(source.name, errors, len(source)))
    if not is_small:
        return readable, TrainingImages(source, classifier, readable)
    return readable, torch.stack(prepared)


class ReadPart(NamedTuple):
    """The readable images of a part, with labels and prepared, and the names of the others."""

    labelled: LabelledSet
    images: PreparedImages
    left_out: tuple[str, ...] = ()


def read_part(
    part: LabelledSet, classifier: Classifier, report: ProgressCallback, title: str
) -> ReadPart:
    """Prepare the images of a part; those that cannot be read are left out.

    Args:
        part: labelled images.
        classifier: the classifier that prepares them.
        report: receives how many are read, and how many there are.
        title: the name of the work.

    Returns:
        The images that can be read, with their labels, and at the classifier's size.
    """
    readable, prepared = prepare_images(part.source, classifier, report, title)
    labelled = part if len(readable) == len(part) else part.choose(readable)
    return ReadPart(labelled, prepared, list_unread(part.source, readable))


def check_read_classes(training: LabelledSet) -> None:
    """Check that a classifier can learn every class from the images that can be read.

    Args:
        training: the readable images to learn from.

    Raises:
        ImagesError: no image has a class, or every image has it.
    """
    if gaps := training.describe_gaps():
        raise ImagesError(
            f"{training.source.name}: of the images to train on that can be read, {gaps}; label "
            "more images, or leave the class out"
        )


def warn_gaps(calibration: LabelledSet, test: LabelledSet) -> None:
    """Warn of classes that are not calibrated or not measured.

    Args:
        calibration: the readable images that set the temperature.
        test: the readable images to measure on.
    """
    if gaps := calibration.describe_gaps():
        warn(f"the temperature is set without all classes: of the images for it, {gaps}")
    if gaps := describe_test_gaps(test):
        warn(gaps)


def describe_test_gaps(test: LabelledSet) -> str:
    """Return of how many classes AUROC and the like are means; empty where of all.

    Args:
        test: the readable images to measure on.

    Returns:
        A line without its full stop.
    """
    gaps, count = test.describe_gaps(), test.count_measurable()
    if not gaps:
        return ""
    if not count:
        return f"AUROC and average precision cannot be measured: of the test images, {gaps}"
    of_all = f"of {count} of {len(test.classes)} classes: of the test images, {gaps}"
    return f"AUROC and the like are {'means' if count > 1 else 'those'} {of_all}"


def weigh_classes(targets: Tensor, decision: Decision, *, balanced: bool) -> Tensor:
    """Return the weights of each class where it is true, and where it is not.

    Args:
        targets: true probabilities of the training images, `images × classes`; NaN where nobody
            knows.
        decision: one class of an image is true, or each class by itself.
        balanced: whether all classes count the same; else all weights are 1.

    Returns:
        Weights whose mean over the images of which a class is known is 1, `2 × classes`.
    """
    count, classes = targets.shape
    if not balanced:
        return torch.ones(2, classes)
    counts = count_labels(targets)
    if not decision.is_multiple:
        return torch.stack([count / (classes * counts[0].clamp(min=1)), torch.ones(classes)])
    return counts.sum(0) / (2 * counts.clamp(min=1))
