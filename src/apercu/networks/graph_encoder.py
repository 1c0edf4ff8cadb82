"""The backbone of a classifier as encoder: its last feature map at every resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from apercu.classifiers import Classifier, InputSpec, save_classifier
from apercu.classifiers.network import convert_to_logits_unchecked
from apercu.classifiers.save import save_program
from apercu.classifiers.sources.exported_program import (
    ExportedNetwork,
    export_module,
    serialise_program,
)
from apercu.errors import ClassifierError, ConfigError
from apercu.networks.encoder import Encoder
from apercu.types import Images, Logits

_OTHER = "name another encoder: timm/NAME, a classifier card, or small"


class GraphEncoder(Encoder):
    """A classifier without its head, which returns the last features of each resolution.

    Args:
        classifier: a classifier that shows its layers and that torch.fx can trace, or an exported
            program that returns feature maps.
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
        self.classifier = [classifier]  # in a list, so that it is no part of this module
        nodes = _find_last_nodes(classifier)
        self.nodes = tuple(nodes)
        self.network = _build_extractor(classifier, self.nodes)
        self.strides = tuple(node.stride for node in nodes.values())
        self.channels = tuple(node.channels for node in nodes.values())

    def forward(self, images: Images) -> list[Tensor]:
        if self.stretch is not None and self.image_spec is not None:
            before = self.image_spec.stretch
            counts = images if before is None else before.to_counts(images)
            images = torch.stack([self.stretch(image) for image in counts])
        outputs = self.network(self.classifier[0].normalise(images))
        return [outputs[node] for node in self.nodes]

    def check_storable(self) -> None:
        """Check that `save` can write the encoder; only a module in memory can fail.

        Raises:
            ConfigError: the module cannot be exported.
        """
        classifier = self.classifier[0]
        if classifier.network.is_in_memory:
            try:
                serialise_program(self._export(), classifier.spec)
            except ClassifierError as error:
                raise ConfigError(f"encoder: {error}; or {_OTHER}") from error

    def save(self, folder: str | Path) -> Path:
        """Write the classifier, so that its card opens as the same encoder.

        Args:
            folder: folder to write to; it is created.

        Returns:
            The path of the card.

        Raises:
            ClassifierError: the classifier is in memory and cannot be exported.
            ConfigError: the classifier's output is not that of its last layer.
            OutputError: the folder cannot be written.
        """
        classifier = self.classifier[0]
        if classifier.network.is_in_memory:
            return save_program(classifier, self._export(), folder, strides=self.strides)
        return save_classifier(classifier, folder)

    def _export(self) -> ExportedProgram:
        """Export the network with its output and its feature maps."""
        network = self.classifier[0].network
        return export_module(_Outputs(EncoderWithHead(self)), network.input, network.source)


class EncoderWithHead(nn.Module):
    """A classifier's backbone with its head: one pass gives logits and feature maps.

    Args:
        encoder: the same backbone without its head.

    Raises:
        ConfigError: the classifier's output is not that of its last layer.
    """

    def __init__(self, encoder: GraphEncoder) -> None:
        super().__init__()
        classifier = encoder.classifier[0]
        self.classifier, self.nodes = encoder.classifier, encoder.nodes
        self.last = _find_output_node(classifier)
        self.network = _build_extractor(classifier, (*self.nodes, self.last))
        image = _make_grey_image(classifier)
        with torch.no_grad():
            raw = classifier.network.forward(classifier.normalise(image))
            expected = convert_to_logits_unchecked(raw, classifier.network.output)
            if not torch.allclose(self(image)[0], expected, atol=1e-4):
                raise ConfigError(f"{classifier.spec}: its output is not that of its last layer")

    def forward(self, images: Images) -> tuple[Logits, list[Tensor]]:
        """Return the logits, and the feature maps of the encoder, finest first."""
        classifier = self.classifier[0]
        outputs = self.network(classifier.normalise(images))
        logits = convert_to_logits_unchecked(outputs[self.last], classifier.network.output)
        return logits, [outputs[node] for node in self.nodes]


class _Outputs(nn.Module):
    """Normalised images → the output of a classifier's network and its feature maps."""

    def __init__(self, encoder: EncoderWithHead) -> None:
        super().__init__()
        self.network, self.nodes = encoder.network, (encoder.last, *encoder.nodes)

    def forward(self, images: Images) -> tuple[Tensor, ...]:
        outputs = self.network(images)
        return tuple(outputs[node] for node in self.nodes)


class _ExportedOutputs(nn.Module):
    """The outputs of an exported program by name, on the device of the images."""

    def __init__(self, exported: ExportedNetwork) -> None:
        super().__init__()
        self.exported = [exported]  # in a list, as it is no module
        self.program: nn.Module = exported.module

    def forward(self, images: Images) -> dict[str, Tensor]:
        exported = self.exported[0]
        if exported.device != images.device:
            exported.to(images.device)
            self.program = exported.module
        return dict(zip(_name_outputs(exported), exported.run(images), strict=True))


class _Node(NamedTuple):
    stride: int
    channels: int


def _find_last_nodes(classifier: Classifier) -> dict[str, _Node]:
    """Return the last feature maps at each stride from 2 to 32, by the names of their nodes."""
    from timm.models import get_graph_node_names

    sample, forward = classifier.normalise(_make_grey_image(classifier)), classifier.network.forward
    if isinstance(forward, ExportedNetwork) and forward.strides:
        with torch.no_grad():
            maps = _ExportedOutputs(forward)(sample)
        names = _name_outputs(forward)[1:]
        pairs = zip(names, forward.strides, strict=True)
        return {name: _Node(stride, maps[name].shape[1]) for name, stride in pairs}
    if classifier.module is None:
        raise ConfigError(f"encoder: {classifier.spec} does not show its layers; {_OTHER}")
    try:
        names = get_graph_node_names(classifier.module)[1]
        with torch.no_grad():
            outputs: dict[str, Any] = _build_extractor(classifier, names)(sample)
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


def _find_output_node(classifier: Classifier) -> str:
    """Return the name of the node whose output is that of the network."""
    from timm.models import get_graph_node_names

    forward = classifier.network.forward
    if isinstance(forward, ExportedNetwork):
        return _name_outputs(forward)[0]
    return str(get_graph_node_names(cast(nn.Module, classifier.module))[1][-1])


def _build_extractor(classifier: Classifier, nodes: Sequence[str]) -> nn.Module:
    """Return a module from normalised images to the outputs of these nodes, by name."""
    from timm.models import create_feature_extractor

    if isinstance(classifier.network.forward, ExportedNetwork):
        return _ExportedOutputs(classifier.network.forward)
    extractor: nn.Module = create_feature_extractor(
        cast(nn.Module, classifier.module), return_nodes={node: node for node in nodes}
    )
    return extractor.eval()


def _name_outputs(exported: ExportedNetwork) -> list[str]:
    """Return names for the outputs of an exported program: first its own, then feature maps."""
    return ["output", *(f"stride {stride}" for stride in exported.strides)]


def _make_grey_image(classifier: Classifier) -> Tensor:
    shape = (1, classifier.channels, *classifier.size)
    return torch.full(shape, 0.5, device=classifier.device)
