"""A small network between a frozen encoder and its class gate."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from torch import Tensor, nn


@final
class FeatureAdapter(nn.Module):
    """A residual adapter of a feature map; before training it changes nothing.

    Normalised features are projected to fewer channels, mixed over 3 × 3 positions and projected
    back, as residual adapters do (Rebuffi et al. 2017, Houlsby et al. 2019). In a frozen encoder,
    above all a transformer, the last features of a position can describe the whole image; the
    adapter learns to bring evidence back to its place.

    Args:
        channels: channels of the feature map.
        width: channels between the projections.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.down = nn.Conv2d(channels, width, 1)
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.up = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Return adapted features, in the shape of the features."""
        hidden = F.gelu(self.down(self.norm(features)))
        return features + self.up(F.gelu(self.mix(hidden)))
