"""One explanation: the image, the class, the map, and the files that show it."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image, ImageColor, ImageDraw

from apercu_runtime.errors import ApercuError, ConfigError
from apercu_runtime.pictures import LUMA, Pixels

HEAT_COLOURS = ("#14103a", "#5b1a7c", "#bb3760", "#f3872f", "#fdf5a9")
"""Colours from no evidence to full evidence, as in apercu."""
HEAT_OPACITY = 0.7
"""Opacity of the heat where a map is 1."""
BOX_COLOUR, BOX_EDGE_COLOUR = "#37e6c3", "#0b0b0b"
LARGEST_SIDE = 1600
"""Pixels; larger pictures are drawn smaller."""


@dataclass(frozen=True)
class NamedClass:
    """One class of the classifier.

    Attributes:
        index: its index.
        name: its name, with all synonyms.
    """

    index: int
    name: str

    @property
    def short_name(self) -> str:
        """The first of its synonyms."""
        return self.name.partition(",")[0]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What an explainer shows of one image and one class; in a notebook a picture.

    `numpy.asarray(explanation)` is the map, as `Explainer.explain` returned it in version 0.1.

    Attributes:
        image: the image as stored, upright, `channels × height × width`.
        map: the raw map at the explainer's size, `height × width`.
        kind: the kind of the explainer, `mask` or `counterpart`.
        name: the name of the image.
        target: the class that is explained; None for the class predicted most, where the graph
            does not say which one it is.
        predicted: the class that is predicted; None where the graph does not predict.
        probability: the probability of the target; None where the graph does not predict.
        level: where a mask is cut for its box.
        predicted_classes: all predicted classes, the most probable first, where each class is
            decided by itself; else None.
        value: the value of a regression.
        runner_up: the class that is predicted second; None where the graph does not predict.
        trust: whether the prediction may be believed, see `VerdictFormat.read`; None without a
            guard.
    """

    image: Pixels
    map: NDArray[np.float32]
    kind: str = "mask"
    name: str = "image"
    target: NamedClass | None = None
    predicted: NamedClass | None = None
    probability: float | None = None
    level: float = 0.5
    predicted_classes: tuple[NamedClass, ...] | None = None
    value: float | None = None
    runner_up: NamedClass | None = None
    trust: Mapping[str, Any] | None = None

    @property
    def mask(self) -> NDArray[np.float32]:
        """The mask in [0, 1] at the explainer's size, `height × width`; 1 keeps.

        Raises:
            ConfigError: the explainer makes no masks.
        """
        if self.kind != "mask":
            raise ConfigError(f"mask: a {self.kind} explainer makes no masks; use map")
        return self.map

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """xmin, ymin, xmax and ymax of the tightest box at the level, in pixels of the image.

        It is None where no pixel reaches the level, and for an explainer that makes no masks.
        """
        if self.kind != "mask":
            return None
        region = self.map >= self.level
        if not region.any():
            return None
        (top, bottom), (left, right) = (_find_extent(region, axis) for axis in (0, 1))
        height, width = self.image.shape[1:]
        rows, columns = self.map.shape
        x, y = width / columns, height / rows
        return (
            math.floor(left * x + 1e-4),
            math.floor(top * y + 1e-4),
            math.ceil(right * x - 1e-4),
            math.ceil(bottom * y - 1e-4),
        )

    @property
    def area(self) -> float:
        """The mean of the mask, or of the map; `region_area` is the region's area."""
        return float(self.map.mean())

    @property
    def region_area(self) -> float | None:
        """The area of the region where the mask reaches the level, as a fraction of the image.

        It is None for an explainer that makes no masks.
        """
        return None if self.kind != "mask" else float((self.map >= self.level).mean())

    def overlay(self) -> Image.Image:
        """Draw the map as heat over the grey image, with the box."""
        height, width = self.image.shape[1:]
        scale = min(1.0, LARGEST_SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        grey = np.asarray(_resize(_to_grey(self.image), size))[..., None]
        heat = np.asarray(_resize(self.map.clip(0, 1), size))
        opacity = HEAT_OPACITY * np.sqrt(heat)[..., None]
        colours = grey * (1 - opacity) + _heat_colours(heat) * opacity
        picture = Image.fromarray((colours.clip(0, 1) * 255).round().astype(np.uint8))
        if self.box is not None:
            x, y = size[0] / width, size[1] / height
            left, top, right, bottom = self.box
            _draw_box(picture, (left * x, top * y, right * x, bottom * y))
        return picture

    def save(self, folder: str | Path) -> Path:
        """Write the map as `NAME.map.npy` and the overlay as `NAME.overlay.png`.

        Returns:
            The folder.

        Raises:
            ApercuError: the folder cannot be written.
        """
        folder, stem = Path(folder), Path(self.name).stem
        try:
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{stem}.map.npy", self.map)
            self.overlay().save(folder / f"{stem}.overlay.png")
        except OSError as error:
            reason = error.strerror or error
            raise ApercuError(f"{folder}: cannot be written ({reason})") from error
        return folder

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the map, so that numpy takes an explanation for its map."""
        return np.array(self.map, dtype=dtype, copy=copy)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the map."""
        return self.map.shape

    def _repr_png_(self) -> bytes:
        """Return the overlay, for notebooks."""
        buffer = io.BytesIO()
        self.overlay().save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        parts = [repr(self.name)]
        if self.target is not None:
            parts.append(f"target={self.target.short_name!r}")
        if self.predicted is not None:
            parts.append(f"predicted={self.predicted.short_name!r}")
        if self.probability is not None:
            parts.append(f"probability={self.probability:.2f}")
        return f"Explanation({', '.join(parts)})"


def _find_extent(region: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """Return the first index of a region along an axis, and the index after the last one."""
    indices = np.nonzero(region)[axis]
    return int(indices.min()), int(indices.max()) + 1


def _resize(values: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """Resize values to a width and height, bilinear."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return image.resize(size, Image.Resampling.BILINEAR)


def _to_grey(image: Pixels) -> NDArray[np.float32]:
    """Return the brightness of an image in [0, 1]; raw counts are scaled to their range."""
    grey = np.tensordot(LUMA, image, 1) if len(image) == 3 else image.mean(axis=0)
    low, high = float(np.nanmin(grey)), float(np.nanmax(grey))
    if low < -1e-3 or high > 1 + 1e-3:
        grey = (grey - low) / max(high - low, 1e-12)
    return np.nan_to_num(grey).astype(np.float32)


def _heat_colours(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the colours of a heat map, `height × width × 3`, of values in [0, 1]."""
    stops = np.array([ImageColor.getrgb(colour) for colour in HEAT_COLOURS]) / 255
    positions = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(values, positions, channel) for channel in stops.T], axis=-1)


def _draw_box(image: Image.Image, box: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = box
    pen, width = ImageDraw.Draw(image), max(1, round(min(image.size) / 112))
    pen.rectangle((left - 1, top - 1, right, bottom), outline=BOX_EDGE_COLOUR, width=width + 2)
    pen.rectangle((left, top, right - 1, bottom - 1), outline=BOX_COLOUR, width=width)
