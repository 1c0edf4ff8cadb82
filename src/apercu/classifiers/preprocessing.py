"""From stored pictures to what a network receives: fitting and normalising."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers.card import InputSpec
from apercu.classifiers.checks import check_range
from apercu.errors import ImageError
from apercu.types import Images, Picture

FitMode: TypeAlias = Literal["squash", "crop"]
"""How a picture takes the classifier's size: whole and squashed, or its centre."""

_SMALLEST_NORM = 1e-12


def fit_image(
    image: Picture, spec: InputSpec, fit: FitMode = "squash"
) -> Float[Tensor, "channels rows columns"]:
    """Resizes a picture to `spec.size`, bilinear with antialiasing.

    `squash` shows the whole picture and does not keep its aspect; `crop` brings the short side to
    `spec.resize` and cuts the centre, as classifiers are usually evaluated.

    Raises:
        ImageError: the picture holds raw counts, and nothing says how they become pixels.
    """
    if spec.stretch is not None:
        image = spec.stretch(image)
    elif spec.normalise == "l2_per_channel":
        image = _zero_non_finite(image)
    else:
        check_range(image, "; say input.stretch in the classifier's card")
    height, width = spec.size
    if fit == "squash":
        return _resize(image, (height, width))
    short = spec.resize or max(height, width)
    sides = image.shape[1:]
    grown = _resize(image, tuple(short * side // min(sides) for side in sides))
    top, left = round((grown.shape[1] - height) / 2), round((grown.shape[2] - width) / 2)
    return grown[:, top : top + height, left : left + width]


def prepare_image(image: Picture, spec: InputSpec) -> Float[Tensor, "channels rows columns"]:
    """A picture as an explainer takes it: whole, squashed to the classifier's size.

    Raises:
        ImageError: it has another number of channels, or holds raw counts, and nothing says how
            they become pixels.
    """
    if image.shape[0] != spec.channels:
        raise ImageError(
            f"explainer expects {spec.channels} channels, the picture has {image.shape[0]}"
        )
    return fit_image(image, spec, "squash")


def normalise(images: Images, spec: InputSpec) -> Images:
    """Applies the rule of `spec`, or its mean and standard deviation; gradients flow through."""
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


def _resize(image: Picture, size: tuple[int, ...]) -> Float[Tensor, "channels rows columns"]:
    if image.shape[1:] == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def _zero_non_finite(values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), values, torch.zeros_like(values))
