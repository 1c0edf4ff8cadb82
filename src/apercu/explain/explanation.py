"""One explanation, and the files that show it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from apercu import maps, render
from apercu.explain.dicom_capture import build_secondary_capture
from apercu.images.formats.dicom import DicomReference
from apercu.images.stream import scale_boxes
from apercu.io import write_file, write_map
from apercu.types import Boxes, Picture

CAPTURED_VIEW = "overlay"
"""The picture that goes back into an archive of DICOM images."""
LARGEST_SIDE = 1600
"""Pixels; larger pictures are shown smaller, except the crop."""


@dataclass(frozen=True, eq=False)
class MaskExplanation:
    """The mask of one class on one picture.

    Args:
        picture: as stored, upright.
        target: index of the class.
        title: its name.
        mask: in [0, 1], at the explainer's size.
        level: where the mask is cut.
        source: how to refer to a picture that is DICOM.
    """

    image: Picture
    target: int
    title: str
    mask: Float[Tensor, "rows columns"]
    level: float
    reference: DicomReference | None = None

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The tightest box at the level, in whole pixels of the picture; None where none is."""
        return tight_box(self.mask, self.level, _get_size(self.image))

    @property
    def slug(self) -> str:
        """Index and name of the class, as part of a file name."""
        return class_slug(self.target, self.title)

    def draw_views(self) -> dict[str, Image.Image]:
        """Overlay with the box, what is kept, what is removed, and the crop if there is one."""
        shown = _shrink(self.image)
        views = {
            "overlay": render.draw_boxes(
                render.draw_overlay(shown, self.mask), self._scale_box(shown)
            ),
            "mask": render.draw_masked(shown, self.mask),
            "removed": render.draw_masked(shown, 1 - self.mask),
        }
        if self.box is not None:
            left, top, right, bottom = self.box
            views["crop"] = render.to_image(self.image[:, top:bottom, left:right])
        return views

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        """Writes every file, and returns what `explain.json` says about them.

        Raises:
            OutputError: the folder cannot be written.
        """
        files = {"map": f"{stem}.map.npy"}
        write_map(folder / files["map"], self.mask)
        for kind, image in self.draw_views().items():
            files[kind] = f"{stem}.{kind}.png"
            render.save_image(folder / files[kind], image)
            if kind == CAPTURED_VIEW and self.reference is not None:
                files["capture"] = f"{stem}.{kind}.dcm"
                about = f"apercu: evidence for {self.title}, mask level {self.level:g}"
                write_file(
                    folder / files["capture"], build_secondary_capture(image, self.reference, about)
                )
        return {
            "target": self.target,
            "class": self.title,
            "box": None if self.box is None else list(self.box),
            "area": round(float(self.mask.mean()), 6),
            "files": files,
        }

    def make_tiles(self, name: str) -> list[render.Tile]:
        """Picture, overlay and what is kept, for a contact sheet."""
        shown = _shrink(self.image, 2 * 224)
        overlay = render.draw_overlay(shown, self.mask)
        return [
            render.Tile(render.to_image(shown), name),
            render.Tile(
                render.draw_boxes(overlay, self._scale_box(shown)), self.title.partition(",")[0]
            ),
            render.Tile(
                render.draw_masked(shown, self.mask), f"mean area {float(self.mask.mean()):.3f}"
            ),
        ]

    def _scale_box(self, shown: Picture) -> Boxes:
        boxes = maps.tight_boxes(maps.find_regions(self.mask[None], self.level))
        return scale_boxes(boxes, _get_size(self.mask), _get_size(shown))


def tight_box(
    mask: Float[Tensor, "rows columns"], level: float, size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The tightest box around what reaches the level, in whole pixels of a picture; None if none.

    Args:
        mask: in [0, 1].
        level: where it is cut.
        size: height and width of the picture.
    """
    region = maps.find_regions(mask[None], level)
    if not region.any():
        return None
    edges = scale_boxes(maps.tight_boxes(region), _get_size(mask), size)[0].tolist()
    left, top = (math.floor(edge + 1e-4) for edge in edges[:2])
    right, bottom = (math.ceil(edge - 1e-4) for edge in edges[2:])
    return left, top, right, bottom


def class_slug(target: int, title: str) -> str:
    """Index and name of a class, as part of a file name.

    >>> slug(281, "tabby, tabby cat")
    '281-tabby'
    """
    name = re.sub(r"[^\w]+", "-", title.partition(",")[0]).strip("-").lower()
    return f"{target}-{name[:40]}"


def _get_size(values: Tensor) -> tuple[int, int]:
    return values.shape[-2], values.shape[-1]


def _shrink(picture: Picture, side: int = LARGEST_SIDE) -> Picture:
    height, width = _get_size(picture)
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]


CAPTURED_PAIR_VIEW = "adversarial"
"""The picture that goes back into an archive of DICOM images."""


@dataclass(frozen=True, eq=False)
class CounterpartExplanation:
    """How one picture would have to change to be seen as another class.

    Args:
        image: as the explainer takes it.
        names: the class it is seen as, and the class that is wanted.
        wanted: index of the latter.
        strip: pictures from the stable counterpart to the adversarial one.
        shares: the wanted class's probability in each of them; empty where nobody was asked.
        source: how to refer to a picture that is DICOM.
    """

    image: Picture
    names: tuple[str, str]
    target: int
    strip: Float[Tensor, "steps channels height width"]
    probabilities: tuple[float, ...] = ()
    reference: DicomReference | None = None

    @property
    def difference(self) -> Picture:
        """What the adversarial picture has more, or less, than the stable one."""
        return self.strip[-1] - self.strip[0]

    @property
    def slug(self) -> str:
        """Index and name of the wanted class, as part of a file name."""
        return class_slug(self.target, self.names[1])

    def draw_views(self) -> dict[str, Image.Image]:
        """Input, both counterparts, what was added and taken away, the strip between them."""
        return {
            "input": render.to_image(self.image),
            "similar": render.to_image(self.strip[0]),
            "adversarial": render.to_image(self.strip[-1]),
            "difference": render.draw_difference(self.difference),
            "strip": render.draw_contact_sheet([self._make_step_tiles()]),
        }

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        """Writes every file, and returns what `explain.json` says about them.

        Raises:
            OutputError: the folder cannot be written.
        """
        files = {"map": f"{stem}.map.npy"}
        write_map(folder / files["map"], self.difference.abs().mean(0))
        for kind, image in self.draw_views().items():
            files[kind] = f"{stem}.{kind}.png"
            render.save_image(folder / files[kind], image)
            if kind == CAPTURED_PAIR_VIEW and self.reference is not None:
                files["capture"] = f"{stem}.{kind}.dcm"
                about = f"apercu: generated, NOT ACQUIRED; changed to be seen as {self.names[1]}"
                write_file(
                    folder / files["capture"], build_secondary_capture(image, self.reference, about)
                )
        about_pair = {
            "seen": self.names[0],
            "target": self.target,
            "class": self.names[1],
            "change": round(float(self.difference.abs().mean()), 6),
            "files": files,
        }
        if self.probabilities:
            about_pair["probabilities"] = [round(share, 6) for share in self.probabilities]
        return about_pair

    def make_tiles(self, name: str) -> list[render.Tile]:
        """Picture, both counterparts and their difference, for a contact sheet."""
        first, last = (
            f" {self.probabilities[end]:.2f}" if self.probabilities else "" for end in (0, -1)
        )
        short = self.names[1].partition(",")[0]
        return [
            render.Tile(render.to_image(self.image), name),
            render.Tile(render.to_image(self.strip[0]), f"similar: {short}{first}"),
            render.Tile(render.to_image(self.strip[-1]), f"adversarial: {short}{last}"),
            render.Tile(
                render.draw_difference(self.difference),
                f"at most {float(self.difference.abs().max()):.2f}",
            ),
        ]

    def _make_step_tiles(self) -> list[render.Tile]:
        shares = [f"{share:.2f}" for share in self.probabilities]
        last = len(self.strip) - 1
        captions = shares or [f"{number} of {last}" for number in range(len(self.strip))]
        return [
            render.Tile(render.to_image(picture), caption)
            for picture, caption in zip(self.strip, captions, strict=True)
        ]
