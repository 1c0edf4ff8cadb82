"""From the stored values of a DICOM frame to pixels, as a radiologist's viewer shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError
from apercu.images.formats.dicom_header import (
    read_count,
    read_items,
    read_number,
    read_numbers,
    read_text,
    read_value,
)
from apercu.images.formats.dicom_pixels import PixelDescription
from apercu.images.formats.dicom_tables import apply_palette, read_table

if TYPE_CHECKING:
    from pydicom import Dataset

WINDOW_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
"""Elements that tell the height and the width of a pixel; the first that is there counts."""


def render_grey(
    values: NDArray[Any], dataset: Dataset, pixels: PixelDescription, name: str
) -> NDArray[np.float32]:
    """Apply the transforms of a grey frame.

    Args:
        values: stored values, `height × width`.
        dataset: the elements of the file, with those of the frame.
        pixels: how the values are stored.
        name: name of the file, for error messages.

    Returns:
        Pixels in [0, 1], `1 × height × width`.

    Raises:
        ImageError: a transform is damaged, or would make all pixels the same.
    """
    padding = _find_padding(values, dataset, pixels, name)
    rescaled = _apply_modality(values, dataset, pixels, name)
    windowed = _apply_voi(rescaled, dataset, pixels, name)
    if windowed is None:
        inside = rescaled[~padding] if not padding.all() else rescaled
        low, high = float(inside.min()), float(inside.max())
        windowed = (rescaled - low) / (high - low or 1.0)
    grey = np.clip(windowed, 0, 1)
    for item in read_items(dataset, "PresentationLUTSequence", name)[:1]:
        table = read_table(item, name, signed=False)
        grey = table.look_up(grey * (len(table.entries) - 1) + table.first) / table.full_scale
    is_inverse = read_text(dataset, "PresentationLUTShape", name).upper() == "INVERSE"
    if pixels.kind == "MONOCHROME1" or is_inverse:
        grey = 1 - grey
    grey[padding] = 0
    return grey[None].astype(np.float32)


def render_colour(
    values: NDArray[Any], dataset: Dataset, pixels: PixelDescription, name: str
) -> NDArray[np.float32]:
    """Scale a colour frame, or apply its palette.

    Args:
        values: stored values, `height × width × 3` in RGB, or `height × width` of a palette.
        dataset: the elements of the file.
        pixels: how the values are stored.
        name: name of the file, for error messages.

    Returns:
        Pixels in [0, 1], `3 × height × width`.

    Raises:
        ImageError: the palette is damaged.
    """
    if pixels.kind == "PALETTE COLOR":
        colours = apply_palette(values, dataset, name, signed=pixels.signed)
        return np.moveaxis(colours, 2, 0).astype(np.float32)
    full_scale = 2.0 ** int(dataset.BitsStored) - 1
    scaled = np.moveaxis(values[..., :3], 2, 0).astype(np.float32) / np.float32(full_scale)
    return np.clip(scaled, 0, 1)


def read_pixel_aspect(dataset: Dataset, name: str) -> float:
    """Return the height of a pixel divided by its width; 1 where the file does not tell.

    Args:
        dataset: the elements of the file, with those of the frame.
        name: name of the file, for error messages.

    Returns:
        The height of a pixel divided by its width.
    """
    for keyword in _SPACINGS:
        numbers = read_numbers(dataset, keyword, name)
        if len(numbers) >= 2 and min(numbers[:2]) > 0:
            return numbers[0] / numbers[1]
    return 1.0


def _find_padding(
    values: NDArray[Any], dataset: Dataset, pixels: PixelDescription, name: str
) -> NDArray[np.bool_]:
    """Return True where a pixel is padding (Pixel Padding Value, with its range limit)."""
    is_float = values.dtype.kind == "f"
    prefix = ("Double" * (values.dtype.itemsize == 8) + "Float") if is_float else ""
    value = read_number(dataset, f"{prefix}PixelPaddingValue", name)
    if value is None:
        return np.zeros(values.shape, bool)
    limit = read_number(dataset, f"{prefix}PixelPaddingRangeLimit", name)
    bounds = [value, value if limit is None else limit]
    if not is_float:
        bounds = [_wrap(int(bound), pixels) for bound in bounds]
    low, high = sorted(bounds)
    padding: NDArray[np.bool_] = (values >= low) & (values <= high)
    return padding


def _wrap(number: int, pixels: PixelDescription) -> int:
    """Return a number as a stored value has it, whether it was written as signed or not."""
    for bits in (pixels.allocated, pixels.stored):
        number %= 2**bits
        lowest = -(2 ** (bits - 1)) if pixels.signed else 0
        if number >= lowest + 2**bits:
            number -= 2**bits
        if lowest <= number < lowest + 2**pixels.stored:
            return number
    return number


def _apply_modality(
    values: NDArray[Any], dataset: Dataset, pixels: PixelDescription, name: str
) -> NDArray[np.float64]:
    """Apply the first modality table, or else the rescaling."""
    for item in read_items(dataset, "ModalityLUTSequence", name)[:1]:
        if read_value(item, "LUTData", name) is not None:
            return read_table(item, name, signed=pixels.signed).look_up(values)
    slope = read_number(dataset, "RescaleSlope", name)
    intercept = read_number(dataset, "RescaleIntercept", name)
    if slope == 0:
        raise ImageError(f"{name}: RescaleSlope is 0, so all pixels become equal; correct it")
    rescaled = values.astype(np.float64)
    if slope is not None:
        rescaled *= slope
    return rescaled + (intercept or 0.0)


def _apply_voi(
    values: NDArray[np.float64], dataset: Dataset, pixels: PixelDescription, name: str
) -> NDArray[np.float64] | None:
    """Apply the first table of interest, or else the first window; None if there is neither."""
    for item in read_items(dataset, "VOILUTSequence", name)[:1]:
        if read_value(item, "LUTData", name) is not None:
            signed = pixels.signed or bool(values.min() < 0)
            table = read_table(item, name, signed=signed)
            return table.look_up(values) / table.full_scale
    width = read_number(dataset, "WindowWidth", name)
    centre = read_number(dataset, "WindowCenter", name)
    if width is not None and not width > 0:
        raise ImageError(f"{name}: WindowWidth is {width:g}, expected above 0; correct it")
    if width is None or centre is None:
        return None
    function = read_text(dataset, "VOILUTFunction", name).upper() or "LINEAR"
    if function not in WINDOW_FUNCTIONS:
        raise ImageError(f"{name}: expected a VOILUTFunction of {', '.join(WINDOW_FUNCTIONS)}")
    return _apply_window(values, centre, width, function)


def _apply_window(
    values: NDArray[np.float64], centre: float, width: float, function: str
) -> NDArray[np.float64]:
    """Apply a window, to [0, 1]: DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3.

    A linear window counts in whole numbers. For widths below 1, and of 1 over fractions, where it
    would show black and white only, it is taken as exact.
    """
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    in_fractions = width < 1 or (width == 1 and bool((values % 1).any()))
    if function == "LINEAR_EXACT" or in_fractions:
        return (values - centre) / width + 0.5
    return (values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5


def read_frame_count(dataset: Dataset, name: str) -> int:
    """Return the number of frames, 1 where the file does not tell."""
    return read_count(dataset, "NumberOfFrames", name) or 1
