"""Encoders: images → feature maps at several strides; and a small one to train from scratch."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from apercu.networks.blocks import build_conv_block
from apercu.types import Images


class Encoder(nn.Module, ABC):
    """A network from images in [0, 1] to feature maps, which normalises the images itself.

    Attributes:
        channels: channels of each feature map, finest map first.
        strides: pixels of the image per cell of each feature map, rounded to a power of two.
        has_tokens: whether the positions of the deepest map are tokens of a transformer, which can
            hold evidence from anywhere in the image.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    has_tokens: bool = False

    @abstractmethod
    def forward(self, images: Images) -> list[Tensor]:
        """Return feature maps, finest first, each `batch × channels[i] × height[i] × width[i]`."""


class SmallEncoder(Encoder):
    """The encoder that the paper trains from scratch on CIFAR-10 (Dabkowski & Gal 2017, section 5).

    Each block has five 3 × 3 convolutions. The first one halves the resolution; each block has
    twice as many channels as the one before.

    Args:
        image_channels: channels of the images.
        width: channels of the first block.
        blocks: number of blocks; the last feature map has stride 2^blocks.
    """

    def __init__(self, image_channels: int = 3, width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.channels = tuple(width * 2**i for i in range(blocks))
        self.strides = tuple(2 ** (i + 1) for i in range(blocks))
        before = (image_channels, *self.channels[:-1])
        self.blocks = nn.ModuleList(
            nn.Sequential(
                build_conv_block(inputs, outputs, stride=2),
                *(build_conv_block(outputs, outputs) for _ in range(4)),
            )
            for inputs, outputs in zip(before, self.channels, strict=True)
        )

    def forward(self, images: Images) -> list[Tensor]:
        features, maps = 2 * images - 1, []
        for block in self.blocks:
            features = block(features)
            maps.append(features)
        return maps
