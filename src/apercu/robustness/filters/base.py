"""What every input filter is: a frozen value that stands in front of a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeAlias, final, get_args

import torch
from torch import nn

from apercu.errors import ConfigError
from apercu.types import Images

Channels: TypeAlias = Literal["each", "grey"]
"""Each channel as a plane of its own, or the luma of all of them, repeated."""

ADDED_LATER = {"later": True}
"""Metadata of a setting that came later: at its default it is no part of the name under which
results were kept before."""

WIDEST_WINDOW = 25
"""Pixels of a neighbourhood; a median holds the square of it for every pixel."""


class Filter(ABC):
    """Changes images so that little is left of an attack; prints as its own settings."""

    @property
    def cache_key(self) -> str:
        return repr(self)

    @torch.no_grad()
    def __call__(self, images: Images) -> Images:
        """Filtered images in [0, 1], of the same shape, without gradients; each by itself.

        Raises:
            ConfigError: the filter changes the size.
        """
        found = self.apply(images.detach())
        if found.shape != images.shape:
            before, after = ("×".join(map(str, one.shape[1:])) for one in (images, found))
            raise ConfigError(f"filter {self.cache_key}: made {after} of {before}; keep the size")
        return found

    @abstractmethod
    def apply(self, images: Images) -> Images:
        """What `__call__` gives, in [0, 1], as a tensor of its own."""

    @abstractmethod
    def apply_surrogate(self, images: Images) -> Images:
        """A differentiable stand-in for the filter, for attacks that know of it.

        May leave [0, 1] a little, because a clamp would stop the gradient.
        """


def check_whole(name: str, low: int, high: int, **settings: int) -> None:
    """Raises ConfigError for a setting that is no whole number between two."""
    for key, value in settings.items():
        if not (isinstance(value, int) and low <= value <= high):
            raise ConfigError(
                f"{name}: {key}: expected a whole number from {low:,} to {high:,}, got {value}"
            )


def check_width(name: str, **settings: int) -> None:
    """Raises ConfigError for the width of a neighbourhood that is even, too small or too large."""
    for key, value in settings.items():
        if not (isinstance(value, int) and 3 <= value <= WIDEST_WINDOW and value % 2):
            raise ConfigError(
                f"{name}: {key}: expected an odd number from 3 to {WIDEST_WINDOW}, got {value}"
            )


def check_positive(name: str, **settings: float) -> None:
    """Raises ConfigError for a setting that is not above 0."""
    for key, value in settings.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name}: {key}: expected a number above 0, got {value:g}")


def check_between(name: str, low: float, high: float, **settings: float) -> None:
    """Raises ConfigError for a setting that is not between two."""
    for key, value in settings.items():
        if not low <= value <= high:
            raise ConfigError(
                f"{name}: {key}: expected a number from {low:g} to {high:g}, got {value:g}"
            )


def check_choice(name: str, key: str, value: str, known: Sequence[str]) -> None:
    """Raises ConfigError for a word that is none of those known."""
    if value not in known:
        raise ConfigError(f"{name}: {key}: expected {' or '.join(known)}, got {value}")


Backward: TypeAlias = Literal["straight", "smooth"]
"""What stands in for a filter in the backward pass: nothing at all, or its smooth stand-in."""


@final
class FilterLayer(nn.Module):
    """Stands in front of any classifier: forward the filter itself, backward a stand-in.

    Attacks that go through it know of the filter (BPDA, Athalye et al. 2018).

    Args:
        filter: what the images become.
        backward: `straight`, as if nothing was filtered; or `smooth`, as the filter's own
            differentiable stand-in.

    Raises:
        ConfigError: no such `backward`.
    """

    def __init__(self, filter: Filter, backward: Backward) -> None:
        super().__init__()
        check_choice("filter layer", "backward", backward, get_args(Backward))
        self.filter = filter
        self.backward = backward

    def forward(self, images: Images) -> Images:
        with torch.no_grad():
            filtered = self.filter(images)
        if not (images.requires_grad and torch.is_grad_enabled()):
            return filtered
        stand_in = images if self.backward == "straight" else self.filter.apply_surrogate(images)
        return filtered + (stand_in - stand_in.detach())

    def extra_repr(self) -> str:
        return f"{self.filter!r}, backward={self.backward}"
