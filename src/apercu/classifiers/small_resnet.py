"""A small residual network: the student of a black box, and the classifier of the demo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import no_type_check

import torch.nn.functional as F
from torch import Tensor, nn

from apercu.types import Images, Logits

_FULL_SIZE = 64
"""Images up to this size enter the residual blocks without being shrunk first, pixels."""


class SmallResNet(nn.Module):
    """Three residual blocks (He et al. 2016), a mean over all positions, and a linear head.

    Args:
        channels: channels of the images.
        classes: number of logits.
        size: height and width of the images; larger ones are halved in the stem, once for every
            doubling beyond 64 pixels.
        width: channels of the stem; each block has twice as many at half the resolution.
    """

    def __init__(self, channels: int, classes: int, size: Sequence[int], width: int) -> None:
        super().__init__()
        halvings = max(0, math.ceil(math.log2(max(size) / _FULL_SIZE)))
        self.stem = nn.Sequential(
            _build_conv_block(channels, width, stride=2 if halvings else 1),
            *(_build_conv_block(width, width, stride=2) for _ in range(halvings - 1)),
        )
        self.blocks = nn.Sequential(
            _Residual(width, 2 * width, stride=2),
            _Residual(2 * width, 4 * width, stride=2),
            _Residual(4 * width, 8 * width, stride=2),
        )
        self.head = nn.Linear(8 * width, classes)

    @no_type_check  # torch.fx calls it with proxies, which are no tensors
    def forward(self, images: Images) -> Logits:
        """Return the logits of normalised images."""
        features: Tensor = self.blocks(self.stem(images))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _build_conv_block(inputs, outputs, stride=stride),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    @no_type_check
    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.body(features) + self.shortcut(features))


def _build_conv_block(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
