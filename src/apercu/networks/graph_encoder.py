"""A classifier's own backbone as encoder: its last feature map at every resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier, InputSpec
from apercu.classifiers.network import convert_to_logits_unchecked
from apercu.errors import ConfigError
from apercu.networks.encoder import Encoder
from apercu.types import Images, Logits

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

    def __init__(self, classifier: Classifier, image_spec: InputSpec | None = None) -> None:
        super().__init__()
        self.stretch, self.seen = classifier.network.input.stretch, image_spec
        if image_spec is None or image_spec.stretch == self.stretch:
            self.stretch = None
        elif image_spec.stretch is None and not image_spec.takes_raw_counts:
            raise ConfigError(f"encoder: {classifier.spec} wants raw counts; {_OTHER}")
        if classifier.module is None:
            raise ConfigError(f"encoder: {classifier.spec} does not show its layers; {_OTHER}")
        self.classifier = [classifier]  # in a list: its door is no part of this module
        nodes = _find_last_nodes(classifier, classifier.module)
        self.nodes = tuple(nodes)
        self.network = _build_extractor(classifier.module, self.nodes)
        self.strides = tuple(stride for stride, _ in nodes.values())
        self.channels = tuple(channels for _, channels in nodes.values())

    def forward(self, images: Images) -> list[Tensor]:
        if self.stretch is not None and self.seen is not None:
            counts = images if self.seen.stretch is None else self.seen.stretch.to_counts(images)
            images = torch.stack([self.stretch(one) for one in counts])
        return list(self.network(self.classifier[0].normalise(images)).values())


class EncoderWithHead(nn.Module):
    """A classifier's own backbone with its head: one pass gives answer and feature maps.

    Args:
        encoder: whose feature maps they are.

    Raises:
        ConfigError: what the classifier answers is not what its last layer gives.
    """

    def __init__(self, encoder: GraphEncoder) -> None:
        from timm.models import get_graph_node_names

        super().__init__()
        classifier = encoder.classifier[0]
        self.classifier, self.nodes = encoder.classifier, encoder.nodes
        module = cast(nn.Module, classifier.module)
        self.last = get_graph_node_names(module)[1][-1]
        self.network = _build_extractor(module, (*self.nodes, self.last))
        sample = torch.full((1, classifier.channels, *classifier.size), 0.5).to(classifier.device)
        with torch.no_grad():
            expected = convert_to_logits_unchecked(
                module(classifier.normalise(sample)), classifier.network.output
            )
            if not torch.allclose(self(sample)[0], expected, atol=1e-4):
                raise ConfigError(f"{classifier.spec}: its answer is not that of its last layer")

    def forward(self, images: Images) -> tuple[Logits, list[Tensor]]:
        """Logits, and what the encoder gives."""
        classifier = self.classifier[0]
        found = self.network(classifier.normalise(images))
        logits = convert_to_logits_unchecked(found[self.last], classifier.network.output)
        return logits, [found[node] for node in self.nodes]


def _find_last_nodes(classifier: Classifier, network: nn.Module) -> dict[str, tuple[int, int]]:
    """Name → (stride, channels) of the last feature map at each stride from 2 to 32."""
    from timm.models import get_graph_node_names

    sample = classifier.normalise(torch.full((1, classifier.channels, *classifier.size), 0.5))
    try:
        names = get_graph_node_names(network)[1]
        with torch.no_grad():
            answers: dict[str, Any] = _build_extractor(network, names)(sample)
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


def _build_extractor(network: nn.Module, nodes: Sequence[str]) -> nn.Module:
    """The network up to the named nodes; what comes after them is dropped."""
    from timm.models import create_feature_extractor

    extractor: nn.Module = create_feature_extractor(network, return_nodes={n: n for n in nodes})
    return extractor.eval()
