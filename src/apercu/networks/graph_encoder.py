"""The backbone of a classifier as encoder: its last feature map at every resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier, InputSpec
from apercu.classifiers.network import convert_to_logits_unchecked
from apercu.errors import ConfigError
from apercu.networks.encoder import Encoder
from apercu.types import Images, Logits

_OTHER = "name another encoder: timm/NAME, a classifier card, or small"


class GraphEncoder(Encoder):
    """A classifier without its head, which returns the last features of each resolution.

    Args:
        classifier: a classifier that shows its layers and that torch.fx can trace.
        image_spec: what the images are, if they were prepared for another classifier. Images that
            come from raw counts are then stretched again, by this classifier's stretch.

    Raises:
        ConfigError: the classifier is a black box, cannot be traced, or has no feature maps.
    """

    def __init__(self, classifier: Classifier, image_spec: InputSpec | None = None) -> None:
        super().__init__()
        self.stretch, self.image_spec = classifier.network.input.stretch, image_spec
        if image_spec is None or image_spec.stretch == self.stretch:
            self.stretch = None
        elif image_spec.stretch is None and not image_spec.takes_raw_counts:
            raise ConfigError(f"encoder: {classifier.spec} needs raw counts; {_OTHER}")
        if classifier.module is None:
            raise ConfigError(f"encoder: {classifier.spec} does not show its layers; {_OTHER}")
        self.classifier = [classifier]  # in a list, so that it is no part of this module
        nodes = _find_last_nodes(classifier, classifier.module)
        self.nodes = tuple(nodes)
        self.network = _build_extractor(classifier.module, self.nodes)
        self.strides = tuple(node.stride for node in nodes.values())
        self.channels = tuple(node.channels for node in nodes.values())

    def forward(self, images: Images) -> list[Tensor]:
        if self.stretch is not None and self.image_spec is not None:
            before = self.image_spec.stretch
            counts = images if before is None else before.to_counts(images)
            images = torch.stack([self.stretch(image) for image in counts])
        return list(self.network(self.classifier[0].normalise(images)).values())


class EncoderWithHead(nn.Module):
    """A classifier's backbone with its head: one pass gives logits and feature maps.

    Args:
        encoder: the same backbone without its head.

    Raises:
        ConfigError: the classifier's output is not that of its last layer.
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
                raise ConfigError(f"{classifier.spec}: its output is not that of its last layer")

    def forward(self, images: Images) -> tuple[Logits, list[Tensor]]:
        """Return the logits, and the feature maps of the encoder, finest first."""
        classifier = self.classifier[0]
        outputs = self.network(classifier.normalise(images))
        logits = convert_to_logits_unchecked(outputs[self.last], classifier.network.output)
        return logits, [outputs[node] for node in self.nodes]


class _Node(NamedTuple):
    stride: int
    channels: int


def _find_last_nodes(classifier: Classifier, network: nn.Module) -> dict[str, _Node]:
    """Return the last feature maps at each stride from 2 to 32, by the names of their nodes."""
    from timm.models import get_graph_node_names

    sample = classifier.normalise(torch.full((1, classifier.channels, *classifier.size), 0.5))
    try:
        names = get_graph_node_names(network)[1]
        with torch.no_grad():
            outputs: dict[str, Any] = _build_extractor(network, names)(sample)
    except (torch.fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(f"encoder: {classifier.spec} cannot be traced; {_OTHER}") from error
    last: dict[int, str] = {}
    for name, output in outputs.items():
        if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1:
            stride = 2 ** round(math.log2(sample.shape[-1] / output.shape[-1]))
            if 2 <= stride <= 32:
                last[stride] = name
    if not last:
        raise ConfigError(f"encoder: {classifier.spec} has no feature maps; {_OTHER}")
    return {name: _Node(stride, outputs[name].shape[1]) for stride, name in sorted(last.items())}


def _build_extractor(network: nn.Module, nodes: Sequence[str]) -> nn.Module:
    """Return the network up to these nodes, without what comes after them."""
    from timm.models import create_feature_extractor

    extractor: nn.Module = create_feature_extractor(network, return_nodes={n: n for n in nodes})
    return extractor.eval()
