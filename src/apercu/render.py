"""Pictures for people; the only file that knows colours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from apercu import maps
from apercu.errors import OutputError
from apercu.io import write_file
from apercu.types import Boxes, Picture

HEAT_COLOURS = ("#14103a", "#5b1a7c", "#bb3760", "#f3872f", "#fdf5a9")
"""Evidence from none to all; lightness rises evenly, so it reads in grey too."""
SERIES_COLOURS = ("#0d7a5f", "#c2410c", "#4f46e5", "#8a7a00", "#0891d1", "#b0187c")
"""Curves of a chart, the first for what is ours; dark enough for paper, light enough for ink."""
SIGNED_COLOURS = ("#4fb3ff", "#ffb02e")
"""What was taken away, and what was added."""
BOX_COLOUR, BOX_EDGE_COLOUR = "#37e6c3", "#0b0b0b"
PAPER, INK = "#ffffff", "#1c1c1c"
HEAT_OPACITY = 0.7
REMOVED_BRIGHTNESS = 0.3
CAPTION, LINE_HEIGHT, GAP = 13, 17, 6
TOLERANCE = 1e-3
"""How far rounding may carry a pixel out of [0, 1]."""
BELOW_SKY = 3.0
"""Noise below the sky that is still told from black."""


def stretch_to_visible(picture: Picture) -> Picture:
    """The picture itself; raw counts from a little below the sky (the median) to the brightest.

    They are bent by arcsinh in units of each band's own noise; what is no number becomes sky.
    """
    picture = picture.detach().to("cpu", torch.float32)
    known = torch.where(picture.isfinite(), picture, torch.nan)
    if known.isfinite().all() and known.min() >= -TOLERANCE and known.max() <= 1 + TOLERANCE:
        return picture
    counts = known.flatten(1)
    counts = (counts - counts.nanmedian(1, keepdim=True).values.nan_to_num()).nan_to_num()
    noise = counts.abs().median(1, keepdim=True).values.clamp(min=1e-6)
    bent, low = torch.asinh(counts / noise), float(np.arcsinh(-BELOW_SKY))
    high = bent.amax(1, keepdim=True).clamp(min=1.0)
    return ((bent - low) / (high - low)).clamp(0, 1).view_as(picture)


def to_image(picture: Picture) -> Image.Image:
    """One channel as grey, three as red, green and blue, any other number as their mean in grey.

    Raw counts are shown as `visible` does.
    """
    picture = stretch_to_visible(picture)
    shown = picture if len(picture) in (1, 3) else picture.mean(dim=0, keepdim=True)
    return _to_pil(shown.expand(3, -1, -1))


def draw_overlay(picture: Picture, map: Float[Tensor, "rows columns"]) -> Image.Image:
    """A map in [0, 1] as heat over the picture, which stays visible (grey where it is cold)."""
    heat = map.detach().to("cpu", torch.float32).clamp(0, 1)
    heat = maps.resize_maps(heat[None], (picture.shape[1], picture.shape[2]))[0]
    base = _to_grey(picture)
    alpha = HEAT_OPACITY * heat.sqrt()
    return _to_pil(base * (1 - alpha) + heat_colours(heat) * alpha)


def draw_difference(difference: Picture) -> Image.Image:
    """What was added, warm, and what was taken away, cold; grey where nothing changed."""
    mean = difference.detach().to("cpu", torch.float32).mean(0)
    strength = mean / mean.abs().max().clamp(min=1e-6)
    ends = torch.tensor([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in SIGNED_COLOURS])
    share = strength.abs()[None]
    ink = torch.where(strength[None] > 0, ends[1][:, None, None], ends[0][:, None, None])
    return _to_pil(0.5 * (1 - share) + ink * share)


def draw_masked(picture: Picture, mask: Float[Tensor, "rows columns"]) -> Image.Image:
    """What a mask keeps, in colour; the rest dark and grey. Give `1 - mask` for what it removes."""
    keep = mask.detach().to("cpu", torch.float32).clamp(0, 1)
    keep = maps.resize_maps(keep[None], (picture.shape[1], picture.shape[2]))[0]
    full = torch.from_numpy(np.asarray(to_image(picture)) / 255.0).permute(2, 0, 1).float()
    return _to_pil(full * keep + REMOVED_BRIGHTNESS * _to_grey(picture) * (1 - keep))


def draw_boxes(image: Image.Image, boxes: Boxes, colour: str = BOX_COLOUR) -> Image.Image:
    """A copy with outlines of the boxes (pixels of this image); empty ones are left out."""
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    width = max(1, round(min(image.size) / 112))
    for left, top, right, bottom in boxes.tolist():
        if right > left and bottom > top:
            around = (left - 1, top - 1, right, bottom)
            pen.rectangle(around, outline=BOX_EDGE_COLOUR, width=width + 2)
            pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=width)
    return drawn


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet and the words below it."""

    image: Image.Image
    caption: str


def draw_contact_sheet(rows: Sequence[Sequence[Tile]], side: int = 224) -> Image.Image:
    """Rows of pictures, each fitted into `side` pixels with its caption below."""
    strips = [_draw_strip(row, side) for row in rows if row]
    width = max((strip.width for strip in strips), default=1)
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips) + GAP), PAPER)
    top = GAP
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _draw_strip(row: Sequence[Tile], side: int) -> Image.Image:
    """One row of a contact sheet, as high as its highest picture and longest caption."""
    font = ImageFont.load_default(size=CAPTION)
    pictures = [fit_to_side(tile.image, side) for tile in row]
    high = max(picture.height for picture in pictures)
    lines = max(tile.caption.count("\n") + 1 for tile in row)
    size = (len(row) * (side + GAP) + GAP, high + lines * LINE_HEIGHT + 2 * GAP)
    strip = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(strip)
    for place, (tile, picture) in enumerate(zip(row, pictures, strict=True)):
        left = GAP + place * (side + GAP)
        strip.paste(picture, (left + (side - picture.width) // 2, high - picture.height))
        for number, line in enumerate(tile.caption.split("\n")):
            below = (left, high + 3 + number * LINE_HEIGHT)
            pen.text(below, shorten(line, font, side), fill=INK, font=font)
    return strip


def fit_to_side(image: Image.Image, side: int) -> Image.Image:
    """The picture scaled until its longer side is `side`; enlarged pixels stay visible."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, way)


def heat_colours(values: Float[Tensor, "height width"]) -> Float[Tensor, "3 height width"]:
    """The heat colours of values in [0, 1]."""
    stops = torch.tensor([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in HEAT_COLOURS])
    place = values * (len(stops) - 1)
    low = place.floor().long().clamp(max=len(stops) - 2)
    part = (place - low)[..., None]
    return (stops[low] * (1 - part) + stops[low + 1] * part).permute(2, 0, 1)


def encode_image(image: Image.Image, format: str = "PNG", *, fast: bool = False) -> bytes:
    """The file of a picture, as bytes; a `fast` PNG is a quarter larger in a third of the time."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, quality=88, compress_level=1 if fast else 6)
    return buffer.getvalue()


def save_image(path: Path, image: Image.Image) -> Path:
    """Write a picture whole or not at all.

    Raises:
        OutputError: the name ends in neither .png nor .jpg, or the file cannot be written.
    """
    format = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if format is None:
        raise OutputError(f"{path}: expected a name that ends in .png or .jpg")
    return write_file(path, encode_image(image, format))


def _to_grey(picture: Picture) -> Tensor:
    luminance = np.asarray(to_image(picture).convert("L")) / 255.0
    return torch.from_numpy(luminance).float().expand(3, -1, -1)


def _to_pil(colour: Tensor) -> Image.Image:
    """Red, green and blue in [0, 1] as a picture."""
    bytes_ = (colour.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).contiguous().numpy())


def shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, cut until it fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
