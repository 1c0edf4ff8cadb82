"""A classifier's own backbone as encoder: its last feature map at every resolution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier, InputSpec
from apercu.errors import ConfigError
from apercu.networks.encoder import Encoder
from apercu.types import Images

_OTHER = "name another encoder: timm/NAME, a classifier card, or small"


class GraphEncoder(Encoder):
    """An open classifier, cut where each resolution ends; its head is dropped.

    Args:
        classifier: opened from a source that shows its layers, and traceable by torch.fx.
        seen: what images behind the door of the explained classifier are, where that is another
            one; raw counts that both know are stretched as this one wants them.

    Raises:
        ConfigError: the classifier is a black box, cannot be traced, or has no feature maps.
    """

    def __init__(self, classifier: Classifier, seen: InputSpec | None = None) -> None:
        super().__init__()
        self.stretch, self.seen = classifier.network.input.stretch, seen
        if seen is None or seen.stretch == self.stretch:
            self.stretch = None
        elif seen.stretch is None and not seen.raw:
            raise ConfigError(f"encoder: {classifier.spec} wants raw counts; {_OTHER}")
        if classifier.module is None:
            raise ConfigError(f"encoder: {classifier.spec} does not show its layers; {_OTHER}")
        self.classifier = [classifier]  # in a list: its door is no part of this module
        nodes = _last_nodes(classifier, classifier.module)
        self.network = _extractor(classifier.module, list(nodes))
        self.strides = tuple(stride for stride, _ in nodes.values())
        self.channels = tuple(channels for _, channels in nodes.values())

    def forward(self, images: Images) -> list[Tensor]:
        if self.stretch is not None and self.seen is not None:
            counts = images if self.seen.stretch is None else self.seen.stretch.counts(images)
            images = torch.stack([self.stretch(one) for one in counts])
        return list(self.network(self.classifier[0].normalise(images)).values())


def _last_nodes(classifier: Classifier, network: nn.Module) -> dict[str, tuple[int, int]]:
    """Name → (stride, channels) of the last feature map at each stride from 2 to 32."""
    from timm.models import get_graph_node_names

    sample = classifier.normalise(torch.full((1, classifier.channels, *classifier.size), 0.5))
    try:
        names = get_graph_node_names(network)[1]
        with torch.no_grad():
            answers: dict[str, Any] = _extractor(network, names)(sample)
    except (torch.fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(f"encoder: {classifier.spec} cannot be traced; {_OTHER}") from error
    last: dict[int, tuple[str, int]] = {}
    for name, answer in answers.items():
        if isinstance(answer, Tensor) and answer.dim() == 4 and min(answer.shape[2:]) > 1:
            stride = 2 ** round(math.log2(sample.shape[-1] / answer.shape[-1]))
            if 2 <= stride <= 32:
                last[stride] = (name, answer.shape[1])
    if not last:
        raise ConfigError(f"encoder: {classifier.spec} has no feature maps; {_OTHER}")
    return {name: (stride, channels) for stride, (name, channels) in sorted(last.items())}


def _extractor(network: nn.Module, nodes: list[str]) -> nn.Module:
    """The network up to the named nodes; what comes after them is dropped."""
    from timm.models import create_feature_extractor

    extractor: nn.Module = create_feature_extractor(network, return_nodes={n: n for n in nodes})
    return extractor.eval()
