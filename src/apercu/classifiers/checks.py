"""What the door refuses."""

from __future__ import annotations

from torch import Tensor

from apercu.classifiers.card import InputSpec
from apercu.errors import ClassifierError, ImageError

_PIXEL_TOLERANCE = 1e-3
"""How far rounding may carry a pixel out of [0, 1]."""


def check_images(images: Tensor, spec: InputSpec) -> None:
    """Refuses images that a classifier cannot take.

    Raises:
        ImageError: no batch of floats, or pixels outside [0, 1] or not numbers; the range of raw
            counts (`l2_per_channel`) is not looked at.
        ClassifierError: another number of channels, or another size.
    """
    if images.ndim != 4 or not images.is_floating_point() or len(images) == 0:
        raise ImageError(
            "images: expected float batch × channels × height × width, got "
            f"{str(images.dtype).removeprefix('torch.')} {' × '.join(map(str, images.shape))}"
        )
    check_channels(images.shape[1], spec)
    if images.shape[2:] != spec.size:
        expected, got = ("×".join(map(str, size)) for size in (spec.size, images.shape[2:]))
        raise ClassifierError(
            f"classifier expects images of {expected} pixels, got {got}; prepare() resizes them"
        )
    if not spec.takes_raw_counts:
        check_range(images.detach())


def check_channels(channels: int, spec: InputSpec) -> None:
    """Refuses another number of channels.

    Raises:
        ClassifierError: it is another.
    """
    if channels != spec.channels:
        raise ClassifierError(
            f"classifier expects {spec.channels} channel{'s' * (spec.channels > 1)}, "
            f"images have {channels}"
        )


def check_range(images: Tensor, advice: str = "") -> None:
    """Refuses pixels outside [0, 1] or not numbers.

    Raises:
        ImageError: there are any.
    """
    low, high = (bound.item() for bound in images.aminmax())
    if not (low >= -_PIXEL_TOLERANCE and high <= 1 + _PIXEL_TOLERANCE):  # also refuses NaN
        raise ImageError(f"images: expected pixels in [0, 1], got [{low:.4g}, {high:.4g}]{advice}")
