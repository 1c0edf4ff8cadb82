"""Draw pictures for people: overlays, masks, boxes, contact sheets. All colours are here."""

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
"""Colours from no evidence to full evidence; lightness rises evenly, so that it reads in grey."""
SERIES_COLOURS = ("#0d7a5f", "#c2410c", "#4f46e5", "#8a7a00", "#0891d1", "#b0187c")
"""Colours of the curves of a chart, the first for our explainer; clear on light and on dark."""
SIGNED_COLOURS = ("#4fb3ff", "#ffb02e")
"""Colours of what was removed and of what was added."""
BOX_COLOUR, BOX_EDGE_COLOUR = "#37e6c3", "#0b0b0b"
PAPER, INK = "#ffffff", "#1c1c1c"
SMALLEST_CHANGE = 0.999 / 255
"""A grey level of a screen, less rounding; if no pixel changes by as much, nobody can see it."""
HEAT_OPACITY = 0.7
"""Opacity of the heat where a map is 1."""
REMOVED_BRIGHTNESS = 0.3
"""Brightness of what a mask removes, as a fraction."""
CAPTION_SIZE, LINE_HEIGHT, GAP, TILE_SIDE = 13, 17, 6, 224
"""Pixels on a contact sheet; the last one is the longer side of each image."""
TOLERANCE = 1e-3
"""How far outside of [0, 1] rounding may move a pixel."""
BELOW_SKY = 3.0
"""How far black is below the level of the sky, in units of the noise."""


def stretch_to_visible(picture: Picture) -> Picture:
    """Scale raw counts to [0, 1] for display; a picture in [0, 1] is returned as it is.

    Counts go from a little below the sky (the median) to the brightest pixel, by arcsinh in units
    of each band's own noise; NaN and infinite pixels become sky.

    Args:
        picture: pixels in [0, 1], or raw counts, `channels × height × width`.

    Returns:
        A picture in [0, 1] of the same shape.
    """
    picture = picture.detach().to("cpu", torch.float32)
    finite = picture.isfinite()
    if finite.all() and picture.min() >= -TOLERANCE and picture.max() <= 1 + TOLERANCE:
        return picture
    counts = torch.where(finite, picture, torch.nan).flatten(1)
    counts = (counts - counts.nanmedian(1, keepdim=True).values.nan_to_num()).nan_to_num()
    noise = counts.abs().median(1, keepdim=True).values.clamp(min=1e-6)
    scaled, low = torch.asinh(counts / noise), float(np.arcsinh(-BELOW_SKY))
    high = scaled.amax(1, keepdim=True).clamp(min=1.0)
    return ((scaled - low) / (high - low)).clamp(0, 1).view_as(picture)


def to_image(picture: Picture) -> Image.Image:
    """Convert a picture to a PIL image; raw counts are scaled by `stretch_to_visible`.

    Args:
        picture: one channel (grey), three (RGB), or any other number, of which the mean is shown.

    Returns:
        An RGB image of the same height and width.
    """
    picture = stretch_to_visible(picture)
    colour = picture if len(picture) in (1, 3) else picture.mean(dim=0, keepdim=True)
    return _to_pil(colour.expand(3, -1, -1))


def draw_overlay(picture: Picture, map: Float[Tensor, "rows columns"]) -> Image.Image:
    """Draw a map as heat over the grey picture.

    Args:
        picture: the picture, `channels × height × width`.
        map: a map in [0, 1], resized to the picture.

    Returns:
        An RGB image of the picture's height and width.
    """
    heat = _fit_map(map, picture)
    base = _to_grey(picture)
    alpha = HEAT_OPACITY * heat.sqrt()
    return _to_pil(base * (1 - alpha) + heat_colours(heat) * alpha)


def measure_change(difference: Picture) -> Float[Tensor, "height width"]:
    """Return how much each pixel changes: the mean over the channels of the absolute difference.

    Args:
        difference: signed pixels, `channels × height × width`.

    Returns:
        The change of each pixel, on the CPU.
    """
    return difference.detach().to("cpu", torch.float32).abs().mean(0)


def describe_change(difference: Picture) -> str:
    """Say how large a difference is: the scale of what `draw_difference` draws.

    >>> describe_change(torch.full((3, 2, 2), 0.25))
    'largest change 0.25'
    >>> describe_change(torch.full((3, 2, 2), 0.0002))
    'no visible change (< 1/255)'
    """
    largest = float(measure_change(difference).max())
    if largest < SMALLEST_CHANGE:
        return "no visible change (< 1/255)"
    return f"largest change {largest:.2g}"


def draw_difference(difference: Picture) -> Image.Image:
    """Draw a difference of two pictures: brighter warm, darker cold, unchanged grey.

    The colour is full where a pixel changes most, and `describe_change` says how much that is.
    Nothing is drawn if no pixel changes by a grey level of a screen (1/255).

    Args:
        difference: signed pixels, `channels × height × width`.

    Returns:
        An RGB image of the same height and width.
    """
    change = measure_change(difference)
    largest = change.max()
    opacity = (change / largest if largest >= SMALLEST_CHANGE else torch.zeros_like(change))[None]
    is_brighter = difference.detach().to("cpu", torch.float32).mean(0)[None] >= 0
    removed, added = _parse_colours(SIGNED_COLOURS)[:, :, None, None]
    colour = torch.where(is_brighter, added, removed)
    return _to_pil(0.5 * (1 - opacity) + colour * opacity)


def draw_masked(picture: Picture, mask: Float[Tensor, "rows columns"]) -> Image.Image:
    """Draw what a mask keeps in colour, and the rest dark and grey.

    Args:
        picture: the picture, `channels × height × width`.
        mask: a mask in [0, 1], resized to the picture; `1 - mask` shows what is removed.

    Returns:
        An RGB image of the picture's height and width.
    """
    keep = _fit_map(mask, picture)
    full = torch.from_numpy(np.asarray(to_image(picture)) / 255.0).permute(2, 0, 1).float()
    return _to_pil(full * keep + REMOVED_BRIGHTNESS * _to_grey(picture) * (1 - keep))


def draw_boxes(image: Image.Image, boxes: Boxes, colour: str = BOX_COLOUR) -> Image.Image:
    """Draw the outlines of boxes on a copy of an image; empty boxes are left out.

    Args:
        image: the image.
        boxes: boxes in pixels of the image, `boxes × 4`.
        colour: colour of the outlines, `#rrggbb`.

    Returns:
        A new image.
    """
    copy = image.copy()
    pen = ImageDraw.Draw(copy)
    width = max(1, round(min(image.size) / 112))
    for left, top, right, bottom in boxes.tolist():
        if right > left and bottom > top:
            outer = (left - 1, top - 1, right, bottom)
            pen.rectangle(outer, outline=BOX_EDGE_COLOUR, width=width + 2)
            inner = (left, top, max(left, right - 1), max(top, bottom - 1))  # at least a pixel
            pen.rectangle(inner, outline=colour, width=width)
    return copy


@dataclass(frozen=True)
class Tile:
    """One image of a contact sheet, and its caption."""

    image: Image.Image
    caption: str


def draw_contact_sheet(rows: Sequence[Sequence[Tile]], side: int = TILE_SIDE) -> Image.Image:
    """Draw rows of images, each with its caption below.

    Args:
        rows: the tiles of each row; empty rows are left out.
        side: longer side of each image in pixels.

    Returns:
        One RGB image.
    """
    strips = [_draw_strip(row, side) for row in rows if row]
    width = max((strip.width for strip in strips), default=1)
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips) + GAP), PAPER)
    top = GAP
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _draw_strip(row: Sequence[Tile], side: int) -> Image.Image:
    """Draw one row of a contact sheet, as high as its highest image and longest caption."""
    font = ImageFont.load_default(size=CAPTION_SIZE)
    images = [fit_to_side(tile.image, side) for tile in row]
    height = max(image.height for image in images)
    lines = max(tile.caption.count("\n") + 1 for tile in row)
    size = (len(row) * (side + GAP) + GAP, height + lines * LINE_HEIGHT + 2 * GAP)
    strip = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(strip)
    for index, (tile, image) in enumerate(zip(row, images, strict=True)):
        left = GAP + index * (side + GAP)
        strip.paste(image, (left + (side - image.width) // 2, height - image.height))
        for number, line in enumerate(tile.caption.split("\n")):
            corner = (left, height + 3 + number * LINE_HEIGHT)
            pen.text(corner, cut_to_width(line, font, side), fill=INK, font=font)
    return strip


def fit_to_side(image: Image.Image, side: int) -> Image.Image:
    """Scale an image so that its longer side is `side` pixels; enlarged pixels stay sharp."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, resampling)


def heat_colours(values: Float[Tensor, "height width"]) -> Float[Tensor, "3 height width"]:
    """Return the colours of a heat map, `3 × height × width`, of values in [0, 1]."""
    stops = _parse_colours(HEAT_COLOURS)
    position = values * (len(stops) - 1)
    low = position.floor().long().clamp(max=len(stops) - 2)
    weight = (position - low)[..., None]
    return (stops[low] * (1 - weight) + stops[low + 1] * weight).permute(2, 0, 1)


def encode_image(image: Image.Image, format: str = "PNG", *, fast: bool = False) -> bytes:
    """Encode an image as the bytes of a file.

    Args:
        image: the image.
        format: `PNG`, `JPEG` or `WEBP`.
        fast: whether to write a PNG a quarter larger in a third of the time.

    Returns:
        The bytes of the file.
    """
    buffer = io.BytesIO()
    image.save(buffer, format=format, quality=88, compress_level=1 if fast else 6)
    return buffer.getvalue()


def save_image(path: Path, image: Image.Image) -> Path:
    """Write an image file completely or not at all, and return its path.

    Raises:
        OutputError: the name ends in neither .png nor .jpg, or the file cannot be written.
    """
    format = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if format is None:
        raise OutputError(f"{path}: expected a name that ends in .png or .jpg")
    return write_file(path, encode_image(image, format))


def _to_grey(picture: Picture) -> Tensor:
    """Return the luminance of a picture in three equal channels, `3 × height × width`."""
    luminance = np.asarray(to_image(picture).convert("L")) / 255.0
    return torch.from_numpy(luminance).float().expand(3, -1, -1)


def _to_pil(colour: Tensor) -> Image.Image:
    """Convert red, green and blue in [0, 1], `3 × height × width`, to an image."""
    levels = (colour.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def _fit_map(map: Float[Tensor, "rows columns"], picture: Picture) -> Float[Tensor, "height width"]:
    """Return a map in [0, 1] on the CPU, at the height and width of a picture."""
    values = map.detach().to("cpu", torch.float32).clamp(0, 1)
    return maps.resize_maps(values[None], (picture.shape[1], picture.shape[2]))[0]


def _parse_colours(colours: Sequence[str]) -> Float[Tensor, "colours 3"]:
    """Return colours that are written `#rrggbb` as red, green and blue in [0, 1]."""
    return torch.tensor([[byte / 255 for byte in bytes.fromhex(each[1:])] for each in colours])


def cut_to_width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut a text, and end it with an ellipsis, so that it fits a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
