"""Settings of an export, and the classifier and images that it may use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar, get_args

from apercu.classifiers import Classifier
from apercu.deploy.export.web_runtime import WebRuntime
from apercu.errors import ConfigError, ImageError, suggest_nearest
from apercu.evaluation.sample import split_indices
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.images import ImageSource, batches
from apercu.types import Images
from apercu.verdicts import PassJudge

Format: TypeAlias = Literal["onnx", "torch", "triton", "kserve", "web"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8", "int8-static"]
FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
BATCH_SIZE = 8
_INSPECTED_IMAGES = 16
"""Number of images that are inspected for boxes."""

ChoiceT = TypeVar("ChoiceT", bound=str)


@dataclass(frozen=True)
class ExportSettings:
    """Settings of an export.

    Attributes:
        formats: what is written; `onnx` always is, and `kserve` implies `triton`. `web` stands
            alone: a folder that explains in a browser.
        precision: the precision of the ONNX graphs.
        combined: whether a graph with the prediction is written; None for where it is possible.
        limit: the number of images that are measured on, drawn at random; None for all.
        seed: the seed of the draw.

    Raises:
        ConfigError: a format or precision is unknown, or `web` is not alone.
    """

    formats: tuple[Format, ...] = ("onnx",)
    precision: Precision = "fp32"
    combined: bool | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.formats:
            check_choice(name, FORMATS, "format")
        if self.web and set(self.formats) != {"web"}:
            raise ConfigError(
                "format: web cannot be combined with other formats, got "
                f"{','.join(self.formats)}; export the others "
                "into another folder"
            )
        if self.web and self.combined is False:
            raise ConfigError("combined: web needs the combined graph; leave --no-combined out")
        check_choice(self.precision, PRECISIONS, "precision")
        if self.limit is not None and self.limit < 2:
            raise ConfigError(f"limit: expected at least 2 images, got {self.limit}")

    @property
    def web(self) -> bool:
        """Whether a folder for browsers is written."""
        return "web" in self.formats

    @property
    def triton(self) -> bool:
        """Whether a Triton model repository is written."""
        return bool({"triton", "kserve"} & set(self.formats))


def check_choice(value: str, choices: Sequence[ChoiceT], name: str) -> ChoiceT:
    """Check that a value is one of several choices, and return it with their type.

    Args:
        value: the value.
        choices: the valid values.
        name: the name of the setting, for the error.

    Returns:
        The same value.

    Raises:
        ConfigError: the value is not one of the choices.
    """
    for choice in choices:
        if value == choice:
            return choice
    raise ConfigError(
        f"{name}: expected one of {', '.join(choices)}, got {value}"
        f"{suggest_nearest(value, choices)}"
    )


@dataclass(frozen=True)
class ImageSubset:
    """Some images of a source, drawn at random.

    Attributes:
        source: the source of the images.
        limit: the number of images; None for all.
        seed: the seed of the draw.
    """

    source: ImageSource
    limit: int | None
    seed: int

    def iterate_batches(self, classifier_info: ClassifierInfo) -> Iterator[Images]:
        """Yield prepared images in batches; images that cannot be read are left out.

        Raises:
            ImageError: no image can be read.
        """
        indices = split_indices(len(self.source), self.limit, self.seed, halves=False)[1]
        unread: list[ImageError] = []
        loaded = batches(
            self.source, classifier_info.prepare, BATCH_SIZE, indices=indices, skip=unread.append
        )
        count = 0
        for batch in loaded:
            count += 1
            yield batch.images
        if not count:
            raise unread[0] if unread else ImageError(f"{self.source.name}: holds no image")

    @property
    def has_boxes(self) -> bool:
        """Whether some of the first images have boxes."""
        for index in range(min(_INSPECTED_IMAGES, len(self.source))):
            with suppress(ImageError):  # an image that cannot be read is left out
                if self.source[index].boxes is not None:
                    return True
        return False


@dataclass(frozen=True)
class ExportInputs:
    """What an export may use besides the explainer.

    Attributes:
        classifier: the explained classifier, where the explainer does not hold it.
        images: the images that graphs are checked and measured on.
        calibration: the images from which the ranges of activations are learnt.
        web_runtime: ONNX Runtime for browsers, for the format `web`.
        name: what a page calls the explainer.
        guard: what judges the prediction in the combined graph; it was fitted with this explainer.
    """

    classifier: Classifier | None = None
    images: ImageSource | None = None
    calibration: ImageSource | None = None
    web_runtime: WebRuntime | None = None
    name: str = "explainer"
    guard: PassJudge | None = None
