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

Fit: TypeAlias = Literal["squash", "crop"]
"""How a picture takes the classifier's size: whole and squashed, or its centre."""

_SMALLEST_NORM = 1e-12


def fit_picture(
    picture: Picture, spec: InputSpec, fit: Fit = "squash"
) -> Float[Tensor, "channels rows columns"]:
    """Resizes a picture to `spec.size`, bilinear with antialiasing.

    `squash` shows the whole picture and does not keep its aspect; `crop` brings the short side to
    `spec.resize` and cuts the centre, as classifiers are usually evaluated.

    Raises:
        ImageError: the picture holds raw counts, and nothing says how they become pixels.
    """
    if spec.stretch is not None:
        picture = spec.stretch(picture)
    elif spec.normalise == "l2_per_channel":
        picture = _finite(picture)
    else:
        check_range(picture, "; say input.stretch in the classifier's card")
    height, width = spec.size
    if fit == "squash":
        return _resize(picture, (height, width))
    short = spec.resize or max(height, width)
    sides = picture.shape[1:]
    grown = _resize(picture, tuple(short * side // min(sides) for side in sides))
    top, left = round((grown.shape[1] - height) / 2), round((grown.shape[2] - width) / 2)
    return grown[:, top : top + height, left : left + width]


def prepared(picture: Picture, spec: InputSpec) -> Float[Tensor, "channels rows columns"]:
    """A picture as an explainer takes it: whole, squashed to the classifier's size.

    Raises:
        ImageError: it has another number of channels, or holds raw counts, and nothing says how
            they become pixels.
    """
    if picture.shape[0] != spec.channels:
        raise ImageError(
            f"explainer expects {spec.channels} channels, the picture has {picture.shape[0]}"
        )
    return fit_picture(picture, spec, "squash")


def normalise(images: Images, spec: InputSpec) -> Images:
    """Applies the rule of `spec`, or its mean and standard deviation; gradients flow through."""
    if spec.normalise == "l2_per_channel":
        images = _finite(images) if spec.stretch is None else spec.stretch.counts(images)
        norms = torch.linalg.vector_norm(images, dim=(2, 3), keepdim=True)
        return images / norms.clamp_min(_SMALLEST_NORM)
    if spec.mean is not None:
        images = images - images.new_tensor(spec.mean).view(1, -1, 1, 1)
    if spec.std is not None:
        images = images / images.new_tensor(spec.std).view(1, -1, 1, 1)
    return images


def _resize(picture: Picture, size: tuple[int, ...]) -> Float[Tensor, "channels rows columns"]:
    if picture.shape[1:] == size:
        return picture
    return F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]


def _finite(values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), values, torch.zeros_like(values))
