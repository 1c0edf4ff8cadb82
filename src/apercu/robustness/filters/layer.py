"""A filter as a layer, with a backward pass of its own."""

from __future__ import annotations

from typing import Literal, TypeAlias, final, get_args

import torch
from torch import nn

from apercu.robustness.filters.base import Filter, check_choice
from apercu.types import Images

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
