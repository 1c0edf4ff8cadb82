"""Open FITS files and check their headers before any pixel is read.

References from a header to other files are not followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from apercu.errors import ImageError
from apercu.extras import require_extra
from apercu.images.formats.decoder_errors import DECODER_ERRORS, silence_warnings
from apercu.images.formats.fits_compression import (
    GZIP_MAGIC,
    check_compression,
    check_tiles,
    gunzip,
)
from apercu.images.limits import check_size
from apercu.images.names import UNPACK, is_archive

if TYPE_CHECKING:
    from astropy.io.fits import Header

Hdu: TypeAlias = Any  # astropy's PrimaryHDU, ImageHDU or CompImageHDU, imported only when needed

FITS_MAGIC = b"SIMPLE  ="
MAX_BANDS = 12
"""Largest number of bands in one file."""

_BLOCK = 2880  # bytes


class FitsParts(NamedTuple):
    """The parts of an open FITS file.

    Attributes:
        primary: the first header.
        images: the HDUs with pixels, in file order, all of one size.
    """

    primary: Header
    images: list[Hdu]


def is_fits(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is a FITS file or a gzip file.

    >>> is_fits(b"SIMPLE  =                    T"), is_fits(b"GIF89a")
    (True, False)
    """
    return start.startswith((FITS_MAGIC, GZIP_MAGIC))


def fits_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that astropy raises for damaged bytes."""
    from astropy.io.fits.verify import VerifyError

    try:
        from astropy.io.fits.hdu.compressed._compression import CfitsioException
    except ImportError:  # it has no public name, and may move
        return (*DECODER_ERRORS, VerifyError)
    return (*DECODER_ERRORS, VerifyError, CfitsioException)


@contextmanager
def open_fits(
    stream: BytesIO | BufferedReader, name: str, *, fit_together: bool = True
) -> Iterator[FitsParts]:
    """Open a FITS file within a `with` block; pixels are read when they are accessed.

    Args:
        stream: the bytes of the file, perhaps gzip'ed.
        name: name of the file, for error messages.
        fit_together: whether all images must be bands of one picture.

    Yields:
        The first header, and the HDUs with pixels.

    Raises:
        ImageError: the file is damaged, cut short, or has no images, or none that fit together.
            What astropy raises within the block becomes an ImageError too.
        MissingExtraError: astropy is not installed.
    """
    require_extra("astro", name)
    from astropy.io import fits

    with silence_warnings("astropy"):
        try:
            stream = _gunzip_if_packed(stream, name)
            with fits.open(stream, memmap=False, uint=False) as file:
                images = list(_find_image_hdus(file, name))
                if fit_together:
                    check_bands_fit(images, name)
                _check_whole(file, stream, name)
                _check_compressed(images, stream, name)
                yield FitsParts(file[0].header, images)
        except ImageError:
            raise
        except fits_errors() as error:
            raise ImageError(f"{name}: damaged or cut short ({type(error).__name__})") from error


def check_bands_fit(images: list[Hdu], name: str) -> None:
    """Raise ImageError if images are no bands of one picture: other shapes, sizes, or too many.

    Args:
        images: HDUs with pixels.
        name: name of the file, for error messages.
    """
    size: tuple[int, int] | None = None
    count = 0
    for number, hdu in enumerate(images):
        count += _check_shape(hdu, number, name)
        height, width = height_width(hdu)
        size = size or (height, width)
        if size != (height, width):
            raise ImageError(
                f"{name}: expected bands of one size, got {size[1]} × {size[0]} and "
                f"{width} × {height} (width × height); name the bands to read"
            )
        if count > MAX_BANDS:
            raise ImageError(
                f"{name}: expected at most {MAX_BANDS} bands, got {count} or more; "
                "name the bands to read"
            )
    if size is not None:
        check_size(name, *size, count)


def count_planes(hdu: Hdu) -> int:
    """Return how many planes an image has."""
    return int(math.prod(hdu.shape[:-2]))


def height_width(hdu: Hdu) -> tuple[int, int]:
    """Return the height and width of an image."""
    return int(hdu.shape[-2]), int(hdu.shape[-1])


def _gunzip_if_packed(stream: BytesIO | BufferedReader, name: str) -> BytesIO | BufferedReader:
    """Unpack a gzip'ed stream; raise ImageError if it does not start like a FITS file."""
    start = stream.read(len(FITS_MAGIC))
    stream.seek(0)
    if start.startswith(GZIP_MAGIC):
        return gunzip(stream, name, lambda first: _check_first_header(first, name))
    if start != FITS_MAGIC:
        raise ImageError(f"{name}: no FITS file, or one that is damaged")
    return stream


def _check_first_header(start: bytes, name: str) -> None:
    """Raise ImageError if the unpacked bytes are not FITS, or start with too large an image."""
    from astropy.io import fits

    if is_archive(start):
        raise ImageError(f"{name}: {UNPACK}")
    if not start.startswith(FITS_MAGIC):
        raise ImageError(f"{name}: gzip'ed, but no FITS file inside")
    header = fits.Header.fromfile(BytesIO(start))
    if int(header.get("NAXIS", 0)) >= 2:
        check_size(name, int(header["NAXIS2"]), int(header["NAXIS1"]))


def _find_image_hdus(file: Any, name: str) -> Iterator[Hdu]:
    """Yield the HDUs with pixels; raise ImageError if one is damaged, or if there are none."""
    from astropy.io import fits

    count = 0
    for number, hdu in enumerate(file):
        if "Corrupted" in type(hdu).__name__ or isinstance(hdu, fits.GroupsHDU):
            raise ImageError(f"{name}: HDU {number} is damaged, or of a kind that is no image")
        if isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU) and hdu.shape:
            count += 1
            yield hdu
    if not count:
        raise ImageError(f"{name}: a FITS file without images; choose one that has some")


def _check_shape(hdu: Hdu, number: int, name: str) -> int:
    """Return how many bands an image has; raise ImageError if it is not a stack of planes."""
    if len(hdu.shape) < 2 or math.prod(hdu.shape[:-3]) != 1:
        shape = " × ".join(str(side) for side in hdu.shape)
        raise ImageError(
            f"{name}: expected an image of 2 or 3 axes, got {shape} in HDU {number}; "
            "leave that HDU out"
        )
    check_size(name, *height_width(hdu))
    return count_planes(hdu)


def _check_compressed(images: list[Hdu], stream: BytesIO | BufferedReader, name: str) -> None:
    """Check the compressed images of a file before their pixels are read."""
    from astropy.io import fits

    for hdu in images:
        if isinstance(hdu, fits.CompImageHDU):
            stream.seek(hdu.fileinfo()["hdrLoc"])
            check_compression(fits.Header.fromfile(stream), name)
            check_tiles(stream, hdu, name)


def _check_whole(file: Any, stream: BytesIO | BufferedReader, name: str) -> None:
    """Raise ImageError if a file ends before its last HDU, or has a damaged HDU after it."""
    last = file[-1].fileinfo()
    end = last["datLoc"] + last["datSpan"]
    length = stream.seek(0, 2)
    if length <= end - _BLOCK:  # some writers leave out the padding of the last block
        raise ImageError(f"{name}: cut short, expected {end} bytes, got {length}")
    stream.seek(end)
    if stream.read(8) == b"XTENSION":
        raise ImageError(f"{name}: damaged, the header of HDU {len(file)} cannot be read")
