"""What an export is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar, get_args

from apercu.classifiers import Classifier
from apercu.errors import ConfigError, ImageError, suggest_nearest
from apercu.evaluation.sample import split_indices
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.images import ImageSource, batches
from apercu.types import Images

Format: TypeAlias = Literal["onnx", "torch", "triton", "kserve"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8", "int8-static"]
FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

W = TypeVar("W", bound=str)


@dataclass(frozen=True)
class ExportSettings:
    """Typed settings, checked when they are made.

    `onnx` is always written; `kserve` needs `triton`, which is then written too. `precision` is
    that of the ONNX graphs. `combined` None writes the graph with the prediction where that is
    possible, True insists on it.

    Raises:
        ConfigError: a format or precision is unknown.
    """

    formats: tuple[Format, ...] = ("onnx",)
    precision: Precision = "fp32"
    combined: bool | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for word in self.formats:
            check_choice(word, FORMATS, "format")
        check_choice(self.precision, PRECISIONS, "precision")
        if self.limit is not None and self.limit < 2:
            raise ConfigError(f"limit: expected at least 2 images, got {self.limit}")

    @property
    def triton(self) -> bool:
        """Whether a Triton model repository is written."""
        return bool({"triton", "kserve"} & set(self.formats))


def check_choice(value: str, choices: Sequence[W], name: str) -> W:
    """The word as one of the known ones.

    Raises:
        ConfigError: it is none of them.
    """
    for one in choices:
        if value == one:
            return one
    raise ConfigError(
        f"{name}: expected one of {', '.join(choices)}, got {value}{suggest_nearest(value, choices)}"
    )


BATCH_SIZE = 8
_INSPECTED_IMAGES = 16
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

    def iterate_batches(self, classifier_info: ClassifierInfo) -> Iterator[Images]:
        """The images as the explainer takes them; those that cannot be read are left out.

        Raises:
            ImageError: none can be read.
        """
        chosen = split_indices(len(self.source), self.limit, self.seed, halves=False)[1]
        unread: list[ImageError] = []
        found = batches(
            self.source, classifier_info.prepare, BATCH_SIZE, indices=chosen, skip=unread.append
        )
        count = 0
        for batch in found:
            count += 1
            yield batch.images
        if not count:
            raise unread[0] if unread else ImageError(f"{self.source.name}: holds no image")

    @property
    def has_boxes(self) -> bool:
        """Whether some of the first images have boxes."""
        first = range(min(_INSPECTED_IMAGES, len(self.source)))
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
