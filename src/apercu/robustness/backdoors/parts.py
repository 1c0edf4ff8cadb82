"""The images of a search for backdoors: clean ones in three parts, suspects, and poisoned ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Generator, Tensor

from apercu.classifiers import Classifier
from apercu.errors import ImagesError, TargetError
from apercu.evaluation.sample import split_indices
from apercu.images import ImageSource
from apercu.images.stream import SkippingReader
from apercu.progress import ProgressCallback
from apercu.robustness.backdoors.base import Trigger
from apercu.robustness.backdoors.results import Rate
from apercu.statistics import wilson_interval
from apercu.types import Images, Targets

FEWEST_CLEAN = 40
"""Smallest number of clean images: a quarter to learn from, a quarter for thresholds."""
BATCH = 64


@dataclass(frozen=True, eq=False)
class ImagePart:
    """Images in memory, with what is known of them.

    Attributes:
        images: images in [0, 1], `batch × channels × height × width`.
        names: name of each image in its source.
        labels: true class of each image; None where it is not known.
    """

    images: Images
    names: tuple[str, ...]
    labels: Targets | None = None

    def __len__(self) -> int:
        return len(self.names)

    def choose(self, rows: Tensor) -> ImagePart:
        """Return the images at these rows, or where a mask is true."""
        index = torch.arange(len(self), device=rows.device)[rows].tolist()
        labels = None if self.labels is None else self.labels[rows]
        return ImagePart(self.images[rows], tuple(self.names[row] for row in index), labels)


@dataclass(frozen=True, eq=False)
class ScanParts:
    """The images of a search.

    Attributes:
        learning: clean images to learn from.
        threshold: clean images that choose thresholds.
        test: clean images that measure.
        suspects: images that are checked.
        samples: images with the trigger to learn from.
        attacked: images of the test bed that fool the classifier, with their true classes.
        attack_success: success of the trigger of the test bed.
    """

    learning: ImagePart
    threshold: ImagePart
    test: ImagePart
    suspects: ImagePart
    samples: ImagePart | None
    attacked: ImagePart | None
    attack_success: Rate | None


@dataclass(frozen=True, eq=False)
class PartReader:
    """Reads the images of a search.

    Args:
        classifier: classifier that is searched.
        trigger: trigger of the test bed; None without one.
        seed: seed of all draws.
        report: receives how many images are read.

    Attributes:
        readers: the readers of all sources, which know the images that were left out.
    """

    classifier: Classifier
    trigger: Trigger | None
    seed: int
    report: ProgressCallback
    readers: list[SkippingReader] = field(default_factory=list, init=False)

    def read(
        self,
        source: ImageSource,
        suspects: ImageSource | None,
        poisoned: ImageSource | None,
        limit: int | None,
        *,
        needs_labels: bool,
    ) -> ScanParts:
        """Read all images, and mark those of the test bed.

        Args:
            source: clean images.
            suspects: images that are checked; the clean ones that measure where None.
            poisoned: images of which it is known that they carry the trigger.
            limit: largest number of images of each source; None for all.
            needs_labels: whether a method needs labels.

        Returns:
            The parts.

        Raises:
            ImageError: no image of a source can be read; some that cannot are left out with a
                warning.
            ImagesError: there are too few clean images, or labels are missing.
            ConfigError: the classifier has no such class as the trigger's target.
        """
        tune, test_rows = split_indices(len(source), limit, self.seed)
        _check_count(len(tune) + len(test_rows), source.name)
        if (needs_labels or self.trigger is not None) and not source.labelled:
            raise ImagesError(
                f"{source.name}: has no labels, and a test bed or a removal needs them"
            )
        order = torch.randperm(len(tune), generator=Generator().manual_seed(self.seed))
        tune = [tune[row] for row in order.tolist()]
        reader = self._open_reader(source)
        tuning = self._read(reader, tune)
        learning = tuning.choose(torch.arange(len(tuning) // 2))
        threshold = tuning.choose(torch.arange(len(tuning) // 2, len(tuning)))
        test = self._read(reader, test_rows)
        reader.warn_left_out()
        _check_count(len(reader.readable), source.name)
        checked = test if suspects is None else self._read_some(suspects, limit)
        samples = None if poisoned is None else self._read_some(poisoned, limit)
        attacked, success = None, None
        if self.trigger is not None:
            self.trigger.check_classifier(self.classifier)
            samples = samples or self._poison(learning, self.trigger)[0]
            attacked, success = self._poison(test, self.trigger)
        return ScanParts(learning, threshold, test, checked, samples, attacked, success)

    def _read_some(self, source: ImageSource, limit: int | None) -> ImagePart:
        """Read up to `limit` images, drawn at random, in the order of the source."""
        _, rows = split_indices(len(source), limit, self.seed, halves=False)
        reader = self._open_reader(source)
        part = self._read(reader, rows, has_labels=False)
        reader.warn_left_out()
        return part

    def _open_reader(self, source: ImageSource) -> SkippingReader:
        self.readers.append(SkippingReader(source))
        return self.readers[-1]

    def _read(
        self, reader: SkippingReader, rows: Sequence[int], *, has_labels: bool = True
    ) -> ImagePart:
        """Read images; labels only where they are of use, because they have to be classes."""
        source = reader.source
        has_labels = has_labels and source.labelled
        images: list[Images] = []
        names: list[str] = []
        labels: list[int] = []
        for batch in reader.read_batches(self.classifier.prepare, BATCH, indices=rows):
            images.append(batch.images)
            names += batch.names
            if has_labels:
                labels += [self._find_class(source, label) for label in batch.labels]
            self.report("reading images", len(names), len(rows))
        device = self.classifier.device
        classes = torch.tensor(labels, device=device) if has_labels else None
        if not images:
            raise next(iter(reader.errors.values()))
        return ImagePart(torch.cat(images).to(device), tuple(names), classes)

    def _find_class(self, source: ImageSource, label: str | int | None) -> int:
        """Return the class of a label."""
        try:
            return self.classifier.names.find_label("" if label is None else label)
        except TargetError as error:
            raise ImagesError(
                f"{source.name}: the label {label!r} is no class of the classifier ({error}); "
                "expected images of its classes, or images without labels"
            ) from error

    def _poison(self, part: ImagePart, trigger: Trigger) -> tuple[ImagePart, Rate]:
        """Mark images of other classes than the target; return those that fool, and how many."""
        variants = trigger.alternate(len(part)).to(part.images.device)
        targets = trigger.find_targets(variants)
        others = torch.ones_like(targets, dtype=torch.bool)
        if part.labels is not None:
            others = part.labels != targets
        chosen = part.choose(others)
        marked = replace(chosen, images=trigger.stamp(chosen.images, variants[others]))
        fooled = predict_classes(self.classifier, marked.images) == targets[others]
        return marked.choose(fooled), measure_rate(fooled)


def _check_count(count: int, name: str) -> None:
    """Raise ImagesError for too few clean images, at first of all, then of those that are read."""
    if count < FEWEST_CLEAN:
        raise ImagesError(
            f"{name}: expected at least {FEWEST_CLEAN} clean images to learn from and to measure "
            f"with, got {count}"
        )


@torch.no_grad()
def predict_classes(classifier: Classifier, images: Images) -> Targets:
    """Return the predicted class of each image, a few at a time."""
    if not len(images):
        return torch.zeros(0, dtype=torch.long, device=images.device)
    return torch.cat([classifier(part).argmax(1) for part in torch.split(images, BATCH)])


def measure_rate(values: Iterable[object] | Tensor) -> Rate:
    """Return the fraction of true values with its 95 % interval; 0 of 0 images is 0."""
    numbers = np.asarray([bool(value) for value in values], dtype=float)
    if not len(numbers):
        return Rate(0.0, (0.0, 1.0), 0)
    return Rate(float(numbers.mean()), wilson_interval(numbers), len(numbers))
