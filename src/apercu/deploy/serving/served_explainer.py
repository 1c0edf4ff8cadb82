"""The explainer that a server serves, as clients see it."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from apercu import render
from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.outputs import Output
from apercu.deploy.export.page import DIGITS, PageSubject, list_examples
from apercu.deploy.serving.requests import MAX_CLASSES, MapFormat, RequestOptions
from apercu.explain.mask_explanation import tight_box
from apercu.maps import find_regions
from apercu.types import Images, Logits, Picture, Targets

Record: TypeAlias = dict[str, Any]
"""A JSON object."""


class CaseSearcher(ABC):
    """What finds similar cases for the images of requests; see `cases.py`."""

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of cases."""

    @abstractmethod
    def find(self, image: Images, target: int | None, count: int) -> Record:
        """Find the cases that are nearest to one image."""


@dataclass(frozen=True, eq=False)
class ServedExplainer(PageSubject):
    """The explainer that a server serves, as clients see it; its name is part of addresses.

    Args:
        read_by: `classifier` or `explainer`: which of them predicts.
        examples: PNG files for the page.
        cases: number of images among which similar ones are found; 0 without.
        method: the method that explains, where no trained explainer does.
    """

    read_by: str
    examples: tuple[bytes, ...] = ()
    cases: int = 0
    method: str | None = None

    def describe(self) -> Record:
        """Return the description that the page and the KServe addresses show."""
        return super().describe() | {
            "most_classes": MAX_CLASSES,
            "examples": len(self.examples),
            **({"cases": self.cases} if self.cases else {}),
            **({} if self.method is None else {"method": self.method}),
        }


def make_examples(spec: InputSpec, names: ClassNames) -> tuple[bytes, ...]:
    """Return the pictures of `list_examples` as PNG files."""
    return tuple(
        content if name.endswith(".png") else render.encode_image(Image.open(BytesIO(content)))
        for name, content in list_examples(spec, names)
    )


def encode_map(map: Float[Tensor, "height width"], format: MapFormat) -> Record:
    """Return a map in [0, 1] as a grey PNG, as rows of numbers, or as both."""
    values = map.numpy()
    record: Record = {}
    if format != "array":
        grey = Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
        record["png"] = to_base64(render.encode_image(grey, fast=True))
    if format != "png":
        record["array"] = values.astype(np.float64).round(DIGITS).tolist()
    return record


def describe_map(map: Float[Tensor, "height width"], level: float, size: tuple[int, int]) -> Record:
    """Return the figures of a map: the box of its region, its mean, and the area of the region.

    Args:
        map: the map, in [0, 1].
        level: value from which on a pixel belongs to the region.
        size: height and width of the picture, in whose pixels the box is.

    Returns:
        The record; areas are fractions of the image.
    """
    region = find_regions(map[None], level).float().mean()
    return {
        "box": tight_box(map, level, size),
        "area": round(float(map.mean()), DIGITS),
        "region_area": round(float(region), DIGITS),
    }


def encode_picture(picture: Picture) -> str:
    """Return a picture as a PNG in base64."""
    return to_base64(render.encode_image(render.to_image(picture)))


def to_base64(content: bytes) -> str:
    """Return bytes in base64, as JSON can hold them."""
    return base64.b64encode(content).decode()


@dataclass(frozen=True, eq=False)
class TargetExplanation:
    """The explanation of one target of an image, on the CPU.

    Args:
        map: the map, in [0, 1].
        fields: figures of its record.
        strip: counterparts, from the similar to the adversarial image; None for masks.
    """

    map: Float[Tensor, "height width"]
    fields: Record
    strip: Images | None = None

    def write(self, format: MapFormat) -> Record:
        """Return its record, with the map and the images encoded."""
        record = self.fields | {"map": encode_map(self.map, format)}
        if self.strip is None:
            return record
        strip = [encode_picture(picture) for picture in self.strip]
        return record | {"similar": strip[0], "adversarial": strip[-1], "strip": strip}


@dataclass(frozen=True, eq=False)
class TargetGroup:
    """Images with the same number of targets.

    Args:
        images: the images as the explainer takes them.
        options: how each is to be explained.
        sizes: height and width of each picture.
        logits: logits, `batch × classes`.
        features: what `BatchExplainer.read` returned besides the logits, one row per image.
        targets: class indices.
    """

    images: Images
    options: Sequence[RequestOptions]
    sizes: Sequence[tuple[int, int]]
    logits: Logits
    features: list[Tensor]
    targets: Int[Tensor, "batch targets"]


def select_mask_targets(
    output: Output, options: RequestOptions, logits: Float[Tensor, " classes"]
) -> Targets:
    """Select the classes whose evidence is shown: those of a request, or the predicted ones.

    Args:
        output: what the numbers of the classifier mean.
        options: options of the request.
        logits: logits of the image.

    Returns:
        Class indices.
    """
    if options.targets:
        return torch.tensor(options.targets)
    if not options.only_predicted:
        return logits.topk(min(options.top, len(logits))).indices
    order = logits.topk(min(MAX_CLASSES, len(logits))).indices
    predicted = output.decision.find_predicted(logits[None])[0][order]
    return order[predicted] if predicted.any() else order[:1]
