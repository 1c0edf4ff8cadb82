"""A classifier's own backbone as encoder: its last feature map at every resolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from apercu.errors import ConfigError
from apercu.networks.encoder import Encoder
from apercu.types import Images


class GraphEncoder(Encoder):
    """Cuts a traceable network where each resolution ends.

    Args:
        network: a classifier's bare module; it must be traceable by torch.fx.
        sample: one image at the classifier's size, as the module's door receives it.
        mean: per-channel mean that the module's normalisation subtracts.
        std: per-channel standard deviation that it divides by.

    Raises:
        ConfigError: the network cannot be traced, or answers no feature maps.
    """

    def __init__(self, network: nn.Module, sample: Images, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("std", std.clone(), persistent=False)
        nodes = _last_nodes(network, (sample - mean) / std)
        self.network = _extractor(network, list(nodes))
        self.strides = tuple(stride for stride, _ in nodes.values())
        self.channels = tuple(channels for _, channels in nodes.values())

    def forward(self, images: Images) -> list[Tensor]:
        return list(self.network((images - self.mean) / self.std).values())


def _last_nodes(network: nn.Module, sample: Tensor) -> dict[str, tuple[int, int]]:
    """Name → (stride, channels) of the last feature map at each stride from 4 to 32."""
    from timm.models import get_graph_node_names

    try:
        names = get_graph_node_names(network)[1]
    except (torch.fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise ConfigError(
            "encoder: the classifier's own network cannot be traced; "
            "name another encoder, such as timm/mobilenetv2_100 or small"
        ) from error
    with torch.no_grad():
        answers: dict[str, Any] = _extractor(network, names)(sample)
    last: dict[int, tuple[str, int]] = {}
    for name, answer in answers.items():
        if isinstance(answer, Tensor) and answer.dim() == 4 and min(answer.shape[2:]) > 1:
            stride = 2 ** round(torch.log2(torch.tensor(sample.shape[-1] / answer.shape[-1])).item())
            if 4 <= stride <= 32:
                last[stride] = (name, answer.shape[1])
    if not last:
        raise ConfigError(
            "encoder: the classifier's own network has no feature maps; "
            "name another encoder, such as timm/mobilenetv2_100 or small"
        )
    return {name: (stride, channels) for stride, (name, channels) in sorted(last.items())}


def _extractor(network: nn.Module, nodes: list[str]) -> nn.Module:
    """The network up to the named nodes; what comes after them is dropped."""
    from timm.models import create_feature_extractor

    extractor: nn.Module = create_feature_extractor(network, return_nodes={n: n for n in nodes})
    return extractor.eval()
