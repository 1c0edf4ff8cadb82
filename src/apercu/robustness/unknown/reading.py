"""Sets of images in memory, for the measurement of unknown images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from apercu.classifiers import Classifier
from apercu.errors import ImagesError, TargetError
from apercu.images import ImageSource
from apercu.images.stream import SkippingReader, list_left_out
from apercu.metrics.pointing import true_regions
from apercu.progress import ProgressCallback
from apercu.robustness.unknown.base import FEWEST_IMAGES
from apercu.types import Images, Regions, Targets

FEWEST_TESTED = 10
"""Smallest number of known images to choose a threshold from, and to measure with."""


@dataclass(frozen=True, eq=False)
class ReadImages:
    """All images of one set in memory.

    Args:
        images: images at the classifier's size, `images × channels × height × width`.
        labels: true classes; None where they are not known.
        regions: what is marked in each image, `images × height × width`; None where nothing is.
    """

    images: Images
    labels: Targets | None
    regions: Regions | None

    @property
    def digest(self) -> str:
        """A text that is the same for the same images and labels."""
        sha = hashlib.sha256(self.images.contiguous().numpy().tobytes())
        for tensor in (self.labels, self.regions):
            sha.update(b"" if tensor is None else tensor.contiguous().numpy().tobytes())
        return sha.hexdigest()[:20]

    def choose(self, rows: Sequence[int]) -> ReadImages:
        """Return some of the images."""
        index = torch.tensor(list(rows), dtype=torch.long)
        labels = None if self.labels is None else self.labels[index]
        regions = None if self.regions is None else self.regions[index]
        return ReadImages(self.images[index], labels, regions)


def read_images(
    classifier: Classifier,
    reader: SkippingReader,
    limit: int | None,
    seed: int,
    report: ProgressCallback,
    *,
    needs_classes: bool = False,
) -> ReadImages:
    """Read images of a source into memory, at the classifier's size.

    Args:
        classifier: the classifier.
        reader: reads the images; those that cannot be read are left out with a warning.
        limit: largest number, drawn at random; None for all.
        seed: seed of the draw.
        report: receives how many were read.
        needs_classes: whether labels must be classes of the classifier; else they are left out.

    Returns:
        The images, with labels where all have one, and with what is marked in them.

    Raises:
        ImagesError: a label is no class of the classifier, or there are no images.
        ImageError: no image can be read.
    """
    source = reader.source
    count = min(len(source), limit or len(source))
    if not count:
        raise ImagesError(f"{source.name}: expected images, got none")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    indices = sorted(order[:count].tolist())
    images, labels, regions = [], [], []
    for batch in reader.read_batches(classifier.prepare, 64, indices=indices):
        images.append(batch.images)
        if needs_classes and source.labelled:
            labels += [_find_class(classifier, source, label) for label in batch.labels]
        size = (batch.images.shape[2], batch.images.shape[3])
        for region, boxes in zip(batch.regions, batch.boxes, strict=True):
            if region is None and boxes is not None and len(boxes):
                region = true_regions(boxes[None], size)[0]
            regions.append(torch.zeros(size, dtype=torch.bool) if region is None else region)
        report(f"reading {source.name}", sum(map(len, images)) + len(reader.errors), count)
    reader.warn_left_out()
    stacked = torch.stack(regions)
    return ReadImages(
        torch.cat(images),
        torch.tensor(labels) if labels else None,
        stacked if bool(stacked.any()) else None,
    )


def _find_class(classifier: Classifier, source: ImageSource, label: str | int | None) -> int:
    try:
        return classifier.names.find_label("" if label is None else label)
    except TargetError as error:
        raise ImagesError(
            f"{source.name}: the label {label!r} is no class of the classifier ({error}); expected "
            "known images, of its classes; images of other kinds are --unknown"
        ) from error


class ImageSets(NamedTuple):
    """The images of a measurement in memory.

    Attributes:
        known: all known images but those of a source of their own to fit to.
        to_fit: known images that methods are fitted to.
        to_choose: known images that choose thresholds.
        to_test: known images that are measured.
        unknown: images of other kinds, by name.
    """

    known: ReadImages
    to_fit: ReadImages
    to_choose: ReadImages
    to_test: ReadImages
    unknown: Mapping[str, ReadImages]


@dataclass(frozen=True, eq=False)
class SetReader:
    """Reads the images of a measurement, and splits the known ones.

    Args:
        classifier: the classifier.
        limit: largest number of images of each set, drawn at random; None for all.
        seed: seed of the draws and of the split.
        report: receives how many images were read.

    Attributes:
        readers: the readers of all sources, which know the images that were left out.
    """

    classifier: Classifier
    limit: int | None
    seed: int
    report: ProgressCallback
    readers: list[SkippingReader] = field(default_factory=list, init=False)

    def read(
        self, known: ImageSource, fit: ImageSource | None, unknown: Mapping[str, ImageSource]
    ) -> ImageSets:
        """Read all images; without `fit`, one half of the known images is fitted to.

        Args:
            known: known images.
            fit: other known images to fit methods to; None to split the first ones.
            unknown: images of other kinds, by name.

        Returns:
            The images in memory, the known ones split by the seed.

        Raises:
            ImageError: no image of a set can be read.
            ImagesError: there are too few known images, or a label is no class.
        """
        read = self._read_source(known, needs_classes=True)
        count, least = len(read.images), 2 * (FEWEST_IMAGES if fit is None else FEWEST_TESTED)
        if count < least:
            raise ImagesError(f"{known.name}: expected at least {least} images, got {count}")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed)).tolist()
        if fit is None:
            to_fit, rest = read.choose(sorted(order[: count // 2])), order[count // 2 :]
        else:
            to_fit, rest = self._read_source(fit, needs_classes=True), order
        half = len(rest) // 2
        to_choose, to_test = (read.choose(sorted(rows)) for rows in (rest[:half], rest[half:]))
        others = {name: self._read_source(source) for name, source in unknown.items()}
        return ImageSets(read, to_fit, to_choose, to_test, others)

    def merge_left_out(self, earlier: Mapping[str, Any]) -> dict[str, Any]:
        """Return the names of images that were left out, by source, with those of earlier calls.

        Args:
            earlier: names by source as earlier calls have stored them; those of a source that was
                read again are replaced.

        Returns:
            Names by source, and nothing for a source whose images were all read.
        """
        own = {reader.source.name for reader in self.readers}
        kept = {name: names for name, names in earlier.items() if name not in own}
        return {**kept, **list_left_out(*self.readers)}

    def _read_source(self, source: ImageSource, *, needs_classes: bool = False) -> ReadImages:
        reader = SkippingReader(source)
        self.readers.append(reader)
        chooses_class = not (
            self.classifier.decision.is_multiple or self.classifier.output.name == "value"
        )
        return read_images(
            self.classifier,
            reader,
            self.limit,
            self.seed,
            self.report,
            needs_classes=needs_classes and chooses_class,
        )
