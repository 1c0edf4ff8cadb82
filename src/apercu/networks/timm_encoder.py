"""Encoders of timm: any of its models in its `features_only` form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from apercu.classifiers.sources.timm import find_cached_weights, find_size_option
from apercu.errors import LIBRARY_ERRORS, ConfigError, first_line
from apercu.networks.encoder import Encoder
from apercu.types import Images


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
        except LIBRARY_ERRORS as error:
            raise ConfigError(
                "encoder: expected a timm model with features_only, got "
                f"timm/{name} ({first_line(error)})"
            ) from error
        info = self.network.feature_info
        rounded = [2 ** round(math.log2(stride)) for stride in info.reduction()]
        last = {stride: i for i, stride in enumerate(rounded) if 4 <= stride <= 32}
        self.map_indices = tuple(last.values())
        self.strides = tuple(last)
        self.has_tokens = len(set(info.reduction())) == 1  # hierarchical models have several
        self.channels = tuple(info.channels()[i] for i in self.map_indices)
        mean, std = self.network.default_cfg["mean"], self.network.default_cfg["std"]
        self.register_buffer("mean", _repeat_per_channel(mean, image_channels), persistent=False)
        self.register_buffer("std", _repeat_per_channel(std, image_channels), persistent=False)

    def forward(self, images: Images) -> list[Tensor]:
        outputs = self.network((images - self.mean) / self.std)
        maps = [outputs[index] for index in self.map_indices]
        # some timm models return the channels last
        return [
            features if features.shape[1] == channels else features.permute(0, 3, 1, 2)
            for features, channels in zip(maps, self.channels, strict=True)
        ]


def _repeat_per_channel(values: Sequence[float], channels: int) -> Tensor:
    """Repeat statistics for any number of channels, as timm does with the three of ImageNet."""
    repeated = [values[i % len(values)] for i in range(channels)]
    return torch.tensor(repeated)[:, None, None]
