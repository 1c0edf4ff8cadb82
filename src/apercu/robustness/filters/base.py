"""The base class of all input filters, and a filter as a layer in front of a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias, final, get_args

import torch
from torch import nn

from apercu.errors import ConfigError
from apercu.robustness.checks import check_choice
from apercu.types import Images

Channels: TypeAlias = Literal["each", "grey"]
"""`each` filters every channel by itself; `grey` filters the luma, and repeats it."""

ADDED_LATER = {"later": True}
"""Metadata of a setting that was added later: results that were stored before stay valid,
because at its default it is not part of the key of the cache."""

BpdaMode: TypeAlias = Literal["straight_through", "surrogate"]
"""The backward pass of a filter: the identity, or the filter's differentiable surrogate."""


class Filter(ABC):
    """Changes images so that little is left of an attack; prints as its own settings."""

    @torch.no_grad()
    def __call__(self, images: Images) -> Images:
        """Return filtered images in [0, 1], of the same shape, without gradients.

        Each image is filtered by itself.

        Raises:
            ConfigError: the filter changes the size.
        """
        filtered = self.apply(images.detach())
        if filtered.shape != images.shape:
            before, after = ("×".join(map(str, x.shape[1:])) for x in (images, filtered))
            raise ConfigError(f"filter {self!r}: made {after} of {before}; keep the size")
        return filtered

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
        with torch.no_grad():
            filtered = self.filter(images)
        if not (images.requires_grad and torch.is_grad_enabled()):
            return filtered
        surrogate = self.backward_mode == "surrogate"
        differentiable = self.filter.apply_surrogate(images) if surrogate else images
        return filtered + (differentiable - differentiable.detach())

    def extra_repr(self) -> str:
        return f"{self.filter!r}, backward={self.backward_mode}"
