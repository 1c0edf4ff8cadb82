"""From stored images to what a network receives: checking, resizing and normalising."""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers.card import InputSpec
from apercu.errors import ClassifierError, ImageError
from apercu.images.resizing import resize_picture
from apercu.types import Images, Picture

FitMode: TypeAlias = Literal["squash", "crop"]
"""How an image is brought to the classifier's size: all of it, squashed, or its centre."""

_SMALLEST_NORM = 1e-12
_PIXEL_TOLERANCE = 1e-3
"""How far outside [0, 1] rounding may bring a pixel."""


def fit_image(
    image: Picture, spec: InputSpec, fit: FitMode = "squash"
) -> Float[Tensor, "channels rows columns"]:
    """Resize an image to `spec.size`, bilinear with antialiasing.

    Args:
        image: a stored image, `channels × height × width`.
        spec: what the classifier expects.
        fit: `squash` takes the whole image and changes its aspect; `crop` brings the short side
            to `spec.resize` and cuts out the centre, as classifiers are usually evaluated.

    Returns:
        The image at `spec.size`, `channels × rows × columns`.

    Raises:
        ImageError: the image holds raw counts, and there is no rule that makes them pixels.
    """
    if spec.stretch is not None:
        image = spec.stretch(image)
    elif spec.normalise == "l2_per_channel":
        image = _zero_non_finite(image)
    else:
        advice = "; scale them, or for raw counts set input.stretch in the classifier's card"
        check_range(image, advice)
    height, width = spec.size
    if fit == "squash":
        return resize_picture(image, (height, width))
    short = spec.resize or max(height, width)
    sides = image.shape[1:]
    scaled = short * sides[0] // min(sides), short * sides[1] // min(sides)
    resized = resize_picture(image, scaled)
    top, left = round((resized.shape[1] - height) / 2), round((resized.shape[2] - width) / 2)
    return resized[:, top : top + height, left : left + width]


def prepare_image(image: Picture, spec: InputSpec) -> Float[Tensor, "channels rows columns"]:
    """Return an image as an explainer takes it: all of it, squashed to the classifier's size.

    Raises:
        ImageError: it is no float tensor, has another number of channels, or holds raw counts and
            there is no rule that makes them pixels.
    """
    check_picture(image)
    if image.shape[0] != spec.channels:
        raise ImageError(
            f"explainer expects {_format_channels(spec.channels)}, the picture has {image.shape[0]}"
            f"{_advise_channels(image.shape[0], spec)}"
        )
    return fit_image(image, spec, "squash")


def normalise(images: Images, spec: InputSpec) -> Images:
    """Apply the rule of `spec`, or its mean and standard deviation; gradients flow through."""
    if spec.normalise == "l2_per_channel":
        images = (
            _zero_non_finite(images) if spec.stretch is None else spec.stretch.to_counts(images)
        )
        norms = torch.linalg.vector_norm(images, dim=(2, 3), keepdim=True)
        return images / norms.clamp_min(_SMALLEST_NORM)
    if spec.mean is not None:
        images = images - images.new_tensor(spec.mean).view(1, -1, 1, 1)
    if spec.std is not None:
        images = images / images.new_tensor(spec.std).view(1, -1, 1, 1)
    return images


def check_picture(picture: object) -> None:
    """Refuse what is no picture, and pixels that are no floats.

    Raises:
        ImageError: it is no float tensor, `channels × height × width`, or it holds no pixel.
    """
    if not _is_filled_with_floats(picture, axes=3):
        raise ImageError(
            "picture: expected a float tensor channels × height × width, got "
            f"{_describe(picture)}; apercu.read_picture(FILE) reads one, and torchvision's "
            "to_tensor converts a Pillow image or an array"
        )


def check_images(images: object, spec: InputSpec) -> None:
    """Refuse images that a classifier cannot take.

    Raises:
        ImageError: the images are no float tensor of a batch, or their pixels are outside [0, 1] or
            not numbers; the range of raw counts (`l2_per_channel`) is not checked.
        ClassifierError: the number of channels or the size is wrong.
    """
    if not _is_filled_with_floats(images, axes=4):
        raise ImageError(
            "images: expected a float tensor batch × channels × height × width, got "
            f"{_describe(images)}; classifier.prepare(apercu.read_picture(FILE)) makes one image "
            "ready, and torch.stack a batch of them"
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
    """Refuse a wrong number of channels.

    Raises:
        ClassifierError: the classifier expects another number.
    """
    if channels != spec.channels:
        raise ClassifierError(
            f"classifier expects {_format_channels(spec.channels)}, images have {channels}"
            f"{_advise_channels(channels, spec)}"
        )


def _format_channels(channels: int) -> str:
    return f"{channels} channel{'s' * (channels > 1)}"


def _advise_channels(channels: int, spec: InputSpec) -> str:
    """Return how grey becomes RGB, or RGB grey; nothing for other channels."""
    if {channels, spec.channels} != {1, 3}:
        return ""
    return f"; apercu.read_picture(FILE, channels={spec.channels}) converts them"


def check_range(images: Tensor, advice: str = "") -> None:
    """Refuse pixels that are outside [0, 1] or not numbers.

    Raises:
        ImageError: there are such pixels; the message ends with the advice.
    """
    low, high = (bound.item() for bound in images.aminmax())
    if not (low >= -_PIXEL_TOLERANCE and high <= 1 + _PIXEL_TOLERANCE):  # also refuses NaN
        raise ImageError(f"images: expected pixels in [0, 1], got [{low:.4g}, {high:.4g}]{advice}")


def _is_filled_with_floats(values: object, axes: int) -> TypeGuard[Tensor]:
    """Whether this is a tensor of floats with so many axes, none of which is empty."""
    return (
        isinstance(values, Tensor)
        and values.ndim == axes
        and values.is_floating_point()
        and values.layout == torch.strided
        and values.numel() > 0
    )


def _describe(values: object) -> str:
    """Return the type of a value and, of a tensor or an array, its numbers and its shape."""
    kind, shape = type(values).__name__, getattr(values, "shape", None)
    if shape is None:
        return kind
    numbers = str(getattr(values, "dtype", "")).removeprefix("torch.")
    text = f"{numbers} {' × '.join(map(str, shape)) or 'number'}"
    if isinstance(values, Tensor):
        return text if values.layout == torch.strided else f"sparse {text}"
    return f"{kind} of {text}"


def _zero_non_finite(values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), values, torch.zeros_like(values))
