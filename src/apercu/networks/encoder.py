"""Encoders: images → feature maps at several strides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apercu.classifiers.sources.timm import find_cached_weights, find_size_option
from apercu.errors import ConfigError
from apercu.types import Images


class Encoder(nn.Module, ABC):
    """A network from images in [0, 1] to feature maps, which normalises the images itself.

    Attributes:
        channels: channels of each feature map, finest map first.
        strides: pixels of the image per cell of each feature map, rounded to a power of two.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

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


class TimmEncoder(Encoder):
    """Any timm model in its `features_only` form.

    Maps with strides below 4 or above 32 are dropped. Of maps with the same stride the last one
    stays, so a vision transformer gives one map. Models with a fixed size are made for the size of
    the images.

    Args:
        name: name of the timm model.
        image_channels: channels of the images.
        pretrained: whether timm loads its pretrained weights.
        size: height and width of the images in pixels; the model's own if None.
    """

    network: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        image_channels: int = 3,
        *,
        pretrained: bool = False,
        size: tuple[int, int] | None = None,
    ) -> None:
        import timm

        super().__init__()
        cached = find_cached_weights(name) if pretrained and timm.is_model(name) else None
        options: dict[str, Any] = {} if size is None else dict(find_size_option(name, size))
        if cached is not None:
            options["pretrained_cfg_overlay"] = {"file": cached}
        try:
            self.network = timm.create_model(
                name,
                features_only=True,
                pretrained=pretrained,
                in_chans=image_channels,
                **options,
            )
        except (RuntimeError, ValueError, OSError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"encoder: expected a timm model with features_only, got timm/{name} ({reason})"
            ) from error
        info = self.network.feature_info
        last = {stride: i for i, stride in enumerate(info.reduction()) if 4 <= stride <= 32}
        self.map_indices = tuple(last.values())
        self.strides = tuple(last)
        self.channels = tuple(info.channels()[i] for i in self.map_indices)
        mean, std = self.network.default_cfg["mean"], self.network.default_cfg["std"]
        self.register_buffer("mean", _repeat_per_channel(mean, image_channels), persistent=False)
        self.register_buffer("std", _repeat_per_channel(std, image_channels), persistent=False)

    def forward(self, images: Images) -> list[Tensor]:
        features = self.network((images - self.mean) / self.std)
        maps = [features[i] for i in self.map_indices]
        if maps[-1].shape[1] != self.channels[-1]:  # some timm models return channels last
            maps = [features.permute(0, 3, 1, 2) for features in maps]
        return maps


def build_conv_block(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Build a convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _repeat_per_channel(values: Sequence[float], channels: int) -> Tensor:
    """Repeat statistics for any number of channels, as timm does with the three of ImageNet."""
    repeated = [values[i % len(values)] for i in range(channels)]
    return torch.tensor(repeated)[:, None, None]
