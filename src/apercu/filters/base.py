"""The base class of all input filters, and a filter as a layer in front of a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields, is_dataclass
from itertools import product
from math import tanh
from typing import Literal, TypeAlias, final, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from apercu.errors import ConfigError
from apercu.filters.checks import check_choice
from apercu.types import Images

Channels: TypeAlias = Literal["each", "grey"]
"""`each` filters every channel by itself; `grey` filters the luma, and repeats it."""

ADDED_LATER = {"later": True}
"""Metadata of a setting that was added later: results that were stored before stay valid,
because at its default it is not part of the key of the cache."""

LOCATION = {"location": True}
"""Metadata of a setting that says where files are; the key of the cache holds their digest."""

BpdaMode: TypeAlias = Literal["straight_through", "surrogate"]
"""The backward pass of a filter: the identity, or the filter's differentiable surrogate."""


class Filter(ABC):
    """Changes images so that little is left of an attack; prints as its own settings."""

    def __call__(self, images: Images) -> Images:
        """Return filtered images in [0, 1], of the same shape, without gradients.

        Each image is filtered by itself.

        Raises:
            ConfigError: the filter changes the size.
        """
        if torch.is_grad_enabled():  # not entered in vain, as a trace would keep it
            with torch.no_grad():
                return self(images)
        filtered = self.apply(images.detach())
        if filtered.shape != images.shape:
            before, after = ("×".join(map(str, x.shape[1:])) for x in (images, filtered))
            raise ConfigError(
                f"filter {self!r}: expected an image of {before}, got {after}; "
                "a filter has to keep the size"
            )
        return filtered

    @property
    def graph_obstacle(self) -> str:
        """Why the filter cannot be a part of an exported graph; empty where it can."""
        return ""

    @abstractmethod
    def apply(self, images: Images) -> Images:
        """Filter images in [0, 1]; the result is a new tensor."""

    @abstractmethod
    def apply_surrogate(self, images: Images) -> Images:
        """Apply a differentiable surrogate of the filter, for attacks that know of the filter.

        The result may leave [0, 1] a little, because a clamp would stop the gradient.
        """


@final
class FilterLayer(nn.Module):
    """A layer that applies a filter in the forward pass, and an approximation in the backward pass.

    It stands in front of a classifier. Attacks through it know of the filter (BPDA, Athalye et al.
    2018).

    Args:
        filter: filter of the forward pass.
        backward: `straight_through` passes gradients as if nothing was filtered; `surrogate` takes
            the gradients of the filter's differentiable surrogate.

    Raises:
        ConfigError: `backward` is neither of the two.
    """

    def __init__(self, filter: Filter, backward: BpdaMode) -> None:
        super().__init__()
        check_choice("filter layer", "backward", backward, get_args(BpdaMode))
        self.filter = filter
        self.backward_mode = backward

    def forward(self, images: Images) -> Images:
        filtered = self.filter(images)
        if not (images.requires_grad and torch.is_grad_enabled()):
            return filtered
        surrogate = self.backward_mode == "surrogate"
        differentiable = self.filter.apply_surrogate(images) if surrogate else images
        return filtered + (differentiable - differentiable.detach())

    def extra_repr(self) -> str:
        return f"{self.filter!r}, backward={self.backward_mode}"


def format_cache_key(value: object) -> str:
    """Format a frozen value as it prints, without settings that were added later.

    Such settings (see `ADDED_LATER`) are left out where they have their default, so that results
    from before stay valid. The `digest` of a filter with weights is added, because other weights
    give other results.
    """
    if not is_dataclass(value):
        return repr(value)
    settings = [
        f"{field.name}={getattr(value, field.name)!r}"
        for field in fields(value)
        if field.metadata != LOCATION
        and not (field.metadata == ADDED_LATER and getattr(value, field.name) == field.default)
    ]
    if digest := getattr(value, "digest", ""):
        settings.append(f"digest={digest}")
    return f"{type(value).__qualname__}({', '.join(settings)})"


SHARPNESS = 5.0
"""Sharpness of the soft steps: the slope is 2.5 on an edge and 0.07 between two, never 0."""
LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma (ITU-R BT.601)."""
LUMA_BYTES = (19595, 38470, 7471)
"""The same weights in 65536ths, as in Pillow's mode L."""


def to_bytes(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Round each pixel to the nearest of 0, 1 / 255, … 1, and return it as a byte.

    >>> to_bytes(torch.tensor([0.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    """
    return images.detach().float().mul(255).round_().clamp_(0, 255).to(torch.uint8)


def from_bytes(pixels: UInt8[Tensor, "batch channels height width"], like: Images) -> Images:
    """Return bytes as values in [0, 1], with the device and type of the images `like`."""
    return (pixels / 255).to(like)


def round_softly(values: Tensor) -> Tensor:
    """Round by a staircase of tanh steps, which has gradients (Agustsson & Theis 2020).

    Whole numbers and their halves stay as they are.

    >>> import torch
    >>> round_softly(torch.tensor([0.0, 0.5, 1.0, 2.0])).tolist()
    [0.0, 0.5, 1.0, 2.0]
    """
    below = values.floor()
    within = (SHARPNESS * (values - below - 0.5)).tanh() / tanh(SHARPNESS / 2)
    return below + 0.5 + 0.5 * within


def convert_to_grey(images: Images) -> Float[Tensor, "batch 1 height width"]:
    """Return the luma of three channels, or the mean of any other number of channels."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weights = torch.tensor(LUMA_WEIGHTS).to(images)
    return (images * weights.view(3, 1, 1)).sum(dim=1, keepdim=True)


def convert_bytes_to_grey(
    pixels: UInt8[Tensor, "batch channels height width"],
) -> UInt8[Tensor, "batch 1 height width"]:
    """Return the grey value of bytes, rounded to bytes; three channels as Pillow does it."""
    if pixels.shape[1] != 3:
        return pixels.float().mean(dim=1, keepdim=True).round().to(torch.uint8)
    weights = torch.tensor(LUMA_BYTES).view(3, 1, 1)
    sums = (pixels.int() * weights).sum(dim=1, keepdim=True)
    return ((sums + 2**15) // 2**16).to(torch.uint8)


def pad_border(images: Images, reach: int) -> Float[Tensor, "batch channels tall wide"]:
    """Repeat the outermost pixels of images `reach` times on all four sides."""
    return F.pad(images, (reach,) * 4, mode="replicate")


def extract_windows(
    images: Images, width: int
) -> Float[Tensor, "batch channels height width neighbours"]:
    """Return the square of odd `width` around every pixel, row by row; borders are repeated."""
    padded = pad_border(images, width // 2)
    if not torch.compiler.is_exporting():
        return padded.unfold(2, width, 1).unfold(3, width, 1).flatten(4)
    height, length = images.shape[2:]
    shifts = product(range(width), repeat=2)
    return torch.stack([padded[..., y : y + height, x : x + length] for y, x in shifts], dim=-1)


def average_windows(images: Images, width: int) -> Float[Tensor, "batch channels low narrow"]:
    """Return the mean of the square of odd `width` around every pixel that has a whole one."""
    return F.avg_pool2d(images, width, stride=1)
