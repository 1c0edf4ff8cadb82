"""Sets of images in memory, for the measurement of unknown images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from apercu.classifiers import Classifier
from apercu.errors import ImagesError, TargetError
from apercu.images import ImageSource
from apercu.images.stream import SkippingReader
from apercu.metrics.pointing import true_regions
from apercu.progress import ProgressCallback
from apercu.types import Images, Regions, Targets


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
        return classifier.index_of("" if label is None else label)
    except TargetError as error:
        raise ImagesError(
            f"{source.name}: the label {label!r} is no class of the classifier ({error}); expected "
            "known images, of its classes; images of other kinds are --unknown"
        ) from error
