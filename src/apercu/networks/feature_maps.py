"""The feature maps of a classifier's network, and its output from the same pass.

Models of timm give the maps of their stages themselves; other networks are traced.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, cast, final

import torch
from torch import Tensor, fx, nn

from apercu.classifiers import Classifier
from apercu.classifiers.positions import (
    MAX_EXTRA_TOKENS,
    MapLayout,
    find_layout,
    make_probes,
)
from apercu.errors import NoFeatureMapsError
from apercu.types import Images

MIN_STRIDE, MAX_STRIDE = 2, 32
OTHER_ENCODER = "name another encoder: timm/NAME, a classifier card, or small"

_REFUSALS = (
    fx.proxy.TraceError,
    RuntimeError,
    ValueError,
    TypeError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
)
"""What a network raises that cannot be traced, or refuses what is asked of it."""


class FeatureMaps(nn.Module, ABC):
    """Normalised images → feature maps of a network, finest first.

    Attributes:
        strides: pixels of the image per cell of each map, rounded to a power of two.
        channels: channels of each map.
        network: the module that holds all weights.
        has_tokens: whether the deepest map is read from a sequence of tokens.
        is_output_checked: whether the output that `with_output` gives is known to be that of the
            network.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    network: nn.Module
    has_tokens: bool = False
    is_output_checked: bool = False

    @abstractmethod
    def forward(self, images: Images) -> list[Tensor]:
        """Return the feature maps, each `batch × channels × rows × columns`."""

    @abstractmethod
    def with_output(self) -> nn.Module:
        """Return a module from normalised images to the network's output and its feature maps."""


@final
class StageMaps(FeatureMaps):
    """The last stage of each stride of a timm model, by its `forward_intermediates`.

    The deepest map holds the features from which the model computes its logits, where these have
    positions.

    Args:
        module: a model with `forward_intermediates` and `forward_head`.
        sample: normalised images, `batch × channels × height × width`.

    Attributes:
        ends_in_map: whether the model itself gives the last features as a map with the channels
            first, as convolutional networks do.

    Raises:
        ValueError: no stage has a stride that is the same on both axes.
    """

    network: Any

    def __init__(self, module: Any, sample: Images) -> None:
        super().__init__()
        self.network = module
        with torch.no_grad():
            final, maps = module.forward_intermediates(sample, output_fmt="NCHW")
        size = (sample.shape[2], sample.shape[3])
        last: dict[int, int] = {}
        for index, features in enumerate(maps):
            stride = find_stride(features.shape, size)
            if stride is not None and stride >= MIN_STRIDE:
                last[stride] = index
        if not last:
            raise ValueError("no stage has a stride that is the same on both axes")
        self.strides = tuple(sorted(last))
        self.indices = [last[stride] for stride in self.strides]
        self.final = _find_final_layout(final, maps[self.indices[-1]])
        self.has_tokens = self.final is not None and self.final.form == "tokens"
        is_whole = self.final is not None and self.final.form == "channels_first"
        self.ends_in_map = is_whole or _has_channels_first(final, module)
        chosen = self._choose(final, [maps[index] for index in sorted(self.indices)])
        self.channels = tuple(features.shape[1] for features in chosen)

    def forward(self, images: Images) -> list[Tensor]:
        return self.run(images)[1]

    def with_output(self) -> nn.Module:
        return _StagesWithHead(self)

    def run(self, images: Images) -> tuple[Any, list[Tensor]]:
        """Return what the head of the model receives, and the feature maps."""
        final, maps = self.network.forward_intermediates(
            images, indices=sorted(self.indices), output_fmt="NCHW"
        )
        return final, self._choose(final, maps)

    def _choose(self, final: Any, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps of the stages by stride, the deepest of them from the last features."""
        by_index = dict(zip(sorted(self.indices), maps, strict=True))
        chosen = [by_index[index] for index in self.indices]
        if self.final is not None:
            chosen[-1] = self.final.read(final)
        return chosen


class _StagesWithHead(nn.Module):
    """The logits and the feature maps of a timm model, in one pass."""

    def __init__(self, stages: StageMaps) -> None:
        super().__init__()
        self.stages = stages

    def forward(self, images: Images) -> tuple[Tensor, list[Tensor]]:
        final, maps = self.stages.run(images)
        return self.stages.network.forward_head(final), maps


@final
class GraphMaps(FeatureMaps):
    """The last map of each stride in the trace of a network.

    Which outputs are maps, and how they are read, is found by changing halves of an image; see
    `apercu.classifiers.positions`.

    Args:
        classifier: a classifier that shows its layers.
        size: height and width of the images in pixels.

    Attributes:
        has_other_outputs: whether later outputs with four axes are no maps.

    Raises:
        NoFeatureMapsError: the network cannot be traced, or has no feature maps.
    """

    def __init__(self, classifier: Classifier, size: tuple[int, int]) -> None:
        super().__init__()
        module = cast(nn.Module, classifier.module)
        try:
            names = _list_nodes(module)
            probes = make_probes(classifier.channels, size).to(classifier.device)
            with torch.no_grad():
                output = classifier.network.pick_tensor(module(classifier.normalise(probes)))
                traced = _build_extractor(module, names)
                finder = _MapFinder(traced, size, output)
                finder.run(classifier.normalise(probes))
        except torch.OutOfMemoryError:
            raise
        except _REFUSALS as error:
            raise NoFeatureMapsError(
                f"encoder: {classifier.spec} cannot be traced; {OTHER_ENCODER}"
            ) from error
        maps = finder.choose()
        if not maps:
            raise NoFeatureMapsError(
                f"encoder: {classifier.spec} has no feature maps; {OTHER_ENCODER}"
            )
        self.strides = tuple(sorted(maps))
        self.nodes = tuple(maps[stride].name for stride in self.strides)
        self.layouts = tuple(maps[stride].layout for stride in self.strides)
        self.channels = tuple(maps[stride].channels for stride in self.strides)
        self.has_tokens = self.layouts[-1].form == "tokens"
        self.has_other_outputs = finder.last_shaped != dict(
            zip(self.strides, self.nodes, strict=True)
        )
        self.output = finder.logits or names[-1]
        self.is_output_checked = finder.logits is not None
        self.traced = [traced]  # in a list, as the extractor has its layers
        self.network = _build_extractor(module, self.nodes)

    def forward(self, images: Images) -> list[Tensor]:
        outputs = self.network(images)
        return [
            layout.read(outputs[node])
            for node, layout in zip(self.nodes, self.layouts, strict=True)
        ]

    def with_output(self) -> nn.Module:
        return _GraphWithOutput(self)


class _GraphWithOutput(nn.Module):
    """The output of a traced network and its feature maps."""

    def __init__(self, maps: GraphMaps) -> None:
        super().__init__()
        self.nodes, self.layouts, self.output = maps.nodes, maps.layouts, maps.output
        self.network = _select_outputs(maps.traced[0], (*maps.nodes, maps.output))

    def forward(self, images: Images) -> tuple[Tensor, list[Tensor]]:
        outputs = self.network(images)
        pairs = zip(self.nodes, self.layouts, strict=True)
        return outputs[self.output], [layout.read(outputs[node]) for node, layout in pairs]


class _TracedMap(NamedTuple):
    """A node of a trace whose output is read as a map."""

    name: str
    layout: MapLayout
    channels: int
    is_certain: bool


class _MapFinder(fx.Interpreter):
    """Runs a traced network on probes, and finds the outputs that are maps.

    Args:
        network: a traced network that returns the outputs of all nodes by name.
        size: height and width of the images in pixels.
        expected: the numbers of the classes for the probes.

    Attributes:
        last_shaped: the last node with four axes and the columns of a map, by stride.
        logits: the last node that gives the numbers of the classes.
    """

    def __init__(self, network: fx.GraphModule, size: tuple[int, int], expected: Tensor) -> None:
        super().__init__(network)
        self.size, self.expected = size, expected
        self.logits: str | None = None
        self.image_channels = 0
        nodes = next(node.args[0] for node in network.graph.nodes if node.op == "output")
        self.names = {node: name for name, node in cast(dict[str, fx.Node], nodes).items()}
        self.last_shaped: dict[int, str] = {}
        self._maps: list[tuple[int, _TracedMap]] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and keep it if its output is a map."""
        output = super().run_node(n)
        if n.op == "placeholder" and isinstance(output, Tensor):
            self.image_channels = output.shape[1]
        elif n in self.names and isinstance(output, Tensor):
            self._inspect(self.names[n], output)
            if self._is_expected(output):
                self.logits = self.names[n]
        return output

    def choose(self) -> dict[int, _TracedMap]:
        """Return the last map of each stride.

        In a network without tokens every output with the shape of a map is one, as deep features
        can depend on the whole image. Maps as fine as the image are taken where no other is.
        """
        has_tokens = any(node.layout.form == "tokens" for _, node in self._maps)
        maps = {stride: node for stride, node in self._maps if node.is_certain or not has_tokens}
        return {stride: maps[stride] for stride in maps if stride >= MIN_STRIDE} or maps

    def _is_expected(self, output: Tensor) -> bool:
        """Return whether an output holds the numbers of the classes."""
        expected = self.expected
        if (output.shape, output.dtype) != (expected.shape, expected.dtype):
            return False
        return torch.allclose(output, expected, atol=1e-4)

    def _inspect(self, name: str, output: Tensor) -> None:
        layout = find_layout(output, self.size)
        is_certain = layout is not None
        if output.ndim == 4 and min(output.shape[2:]) > 1:
            stride = _round_stride(self.size[1], output.shape[3])
            if MIN_STRIDE <= stride <= MAX_STRIDE:
                self.last_shaped[stride] = name
            layout = layout or MapLayout(output.shape[2], output.shape[3], "channels_first")
        if output.shape[:1] != self.expected.shape[:1]:
            return  # a table that is the same for all images, such as biases of positions
        features = None if layout is None else layout.read(output)
        shared = None if features is None else find_stride(features.shape, self.size)
        if layout is not None and features is not None and shared is not None:
            if shared < MIN_STRIDE and features.shape[1] <= self.image_channels:
                return  # the image itself
            node = _TracedMap(name, layout, features.shape[1], is_certain)
            self._maps.append((shared, node))


def find_stride(shape: torch.Size, size: tuple[int, int]) -> int | None:
    """Return the stride of a map, or None where it is not the same on both axes.

    Args:
        shape: `batch × channels × rows × columns`.
        size: height and width of the images in pixels.

    Returns:
        Pixels per cell, rounded to a power of two, from 1 to 32.
    """
    if len(shape) != 4 or min(shape[2:]) < 2:
        return None
    strides = {_round_stride(side, cells) for side, cells in zip(size, shape[2:], strict=True)}
    stride = strides.pop()
    return stride if not strides and 1 <= stride <= MAX_STRIDE else None


def _round_stride(side: int, cells: int) -> int:
    """Return the pixels per cell, rounded to a power of two; 0 where cells are finer."""
    return int(2 ** round(math.log2(side / cells)))


def open_stages(classifier: Classifier, size: tuple[int, int]) -> StageMaps | None:
    """Return the stages of a timm model, or None where it does not give them.

    Args:
        classifier: a classifier that shows its layers.
        size: height and width of the images in pixels.

    Returns:
        The stages, which give the maps of all strides; None where there are none.
    """
    module = classifier.module
    if not all(hasattr(module, name) for name in ("forward_intermediates", "forward_head")):
        return None
    grey = torch.full((1, classifier.channels, *size), 0.5, device=classifier.device)
    try:
        return StageMaps(module, classifier.normalise(grey))
    except torch.OutOfMemoryError:
        raise
    except _REFUSALS:
        return None


def _has_channels_first(final: Any, module: Any) -> bool:
    """Return whether the last features of a model are a map of another grid, channels first."""
    channels = getattr(module, "num_features", None)
    is_map = isinstance(final, Tensor) and final.ndim == 4
    return is_map and final.shape[1] == channels != final.shape[3]


def _find_final_layout(final: Any, deepest: Tensor) -> MapLayout | None:
    """Return how the last features are read as a map of the same grid as the last stage."""
    if not isinstance(final, Tensor):
        return None
    rows, columns = deepest.shape[2:]
    if final.ndim == 4 and final.shape[2:] == (rows, columns):
        return MapLayout(rows, columns, "channels_first")
    if final.ndim == 4 and final.shape[1:3] == (rows, columns):
        return MapLayout(rows, columns, "channels_last")
    if final.ndim == 3 and 0 <= final.shape[1] - rows * columns <= MAX_EXTRA_TOKENS:
        return MapLayout(rows, columns, "tokens")
    return None


def _list_nodes(module: nn.Module) -> list[str]:
    """Return the names of all nodes of a network's trace; the last one is its output."""
    from timm.models import get_graph_node_names

    names: list[str] = get_graph_node_names(module)[1]
    return names


def _build_extractor(module: nn.Module, nodes: Sequence[str]) -> fx.GraphModule:
    """Return a module from normalised images to the outputs of these nodes, by name."""
    from timm.models import create_feature_extractor

    extractor: fx.GraphModule = create_feature_extractor(
        module, return_nodes={node: node for node in nodes}
    )
    return extractor.eval()


def _select_outputs(traced: fx.GraphModule, nodes: Sequence[str]) -> fx.GraphModule:
    """Return the part of a trace that gives some of its outputs, without another trace."""
    graph = copy.deepcopy(traced.graph)
    last = next(node for node in graph.nodes if node.op == "output")
    outputs = cast(dict[str, fx.Node], last.args[0])
    last.args = ({name: outputs[name] for name in nodes},)
    part = fx.GraphModule(traced, graph)
    part.graph.eliminate_dead_code()
    part.delete_all_unused_submodules()
    part.recompile()
    return part.eval()
