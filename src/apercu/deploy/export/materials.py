"""What an export may use besides the run: the classifier, and images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from apercu.classifiers import Classifier
from apercu.errors import ImageError
from apercu.evaluation.sample import split_indices
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.images import ImageSource, batches
from apercu.types import Images

BATCH = 8
_LOOKED_AT = 16
"""Images that say whether a source knows boxes."""


@dataclass(frozen=True)
class ImageSubset:
    """Images to measure on, or to learn ranges from.

    Args:
        source: of the images.
        limit: only so many, drawn at random; all where None.
        seed: of that draw.
    """

    source: ImageSource
    limit: int | None
    seed: int

    def iterate_batches(self, passport: ClassifierInfo) -> Iterator[Images]:
        """The images as the explainer takes them; those that cannot be read are left out.

        Raises:
            ImageError: none can be read.
        """
        chosen = split_indices(len(self.source), self.limit, self.seed, halves=False)[1]
        unread: list[ImageError] = []
        found = batches(self.source, passport.prepare, BATCH, indices=chosen, skip=unread.append)
        count = 0
        for batch in found:
            count += 1
            yield batch.images
        if not count:
            raise unread[0] if unread else ImageError(f"{self.source.name}: holds no image")

    @property
    def has_boxes(self) -> bool:
        """Whether some of the first images have boxes."""
        first = range(min(_LOOKED_AT, len(self.source)))
        return any(self.source[index].boxes is not None for index in first)


@dataclass(frozen=True)
class ExportInputs:
    """What an export may use besides the run.

    Attributes:
        classifier: the explained one; the explainer's own encoder may stand in for it.
        images: to check and to measure on.
        calibration: to learn the ranges of activations from.
    """

    classifier: Classifier | None = None
    images: ImageSource | None = None
    calibration: ImageSource | None = None
