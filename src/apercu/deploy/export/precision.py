"""Convert graphs to half precision or 8-bit integers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from apercu.deploy.export.settings import Precision
from apercu.deploy.export.tracing import INPUTS, silence_exporter
from apercu.errors import ConfigError, first_line
from apercu.io import write_file

QUANTISED_OPERATORS = ["Conv", "Gemm"]
WEIGHTED_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that hold weights."""
UNTYPED_OPERATORS = ("Cast", "CastLike", "Constant", "ConstantOfShape", "Range", "Shape", "Size")
"""Operators that set the type of their output themselves."""
FLOAT_INPUTS = {"Resize": (1, 2)}
"""Indices of the inputs that must be float32, by operator."""


def convert_graph(exact: Path, precision: Precision, path: Path, calibration: list[Tensor]) -> Path:
    """Write a graph in another precision.

    Args:
        exact: the path of the float32 graph.
        precision: the precision of the new graph.
        path: the path of the new file.
        calibration: batches of images from which `int8-static` learns the ranges of activations.

    Returns:
        The path of the new file.

    Raises:
        ConfigError: onnxruntime cannot convert the graph.
        OutputError: the file cannot be written.
    """
    if precision == "fp32":
        return write_file(path, exact.read_bytes())
    try:
        with silence_exporter(), tempfile.TemporaryDirectory() as folder:
            converted = Path(folder) / path.name
            if precision == "fp16":
                _write_half(exact, converted)
            elif precision == "int8":
                _write_dynamic_int8(exact, converted)
            else:
                _write_static_int8(exact, converted, calibration)
            return write_file(path, converted.read_bytes())
    except (RuntimeError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        reason = first_line(error)[:200]
        raise ConfigError(
            f"precision: onnxruntime cannot convert this graph to {precision} ({reason}); "
            "use --precision fp32"
        ) from error


def _write_half(exact: Path, path: Path) -> None:
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(exact))
    convert_to_half(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _write_dynamic_int8(exact: Path, path: Path) -> None:
    """Write a graph with 8-bit weights, which finds the range of activations for every image."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        exact,
        path,
        op_types_to_quantize=QUANTISED_OPERATORS,
        weight_type=QuantType.QUInt8,
        per_channel=True,
    )


def _write_static_int8(exact: Path, path: Path, batches: list[Tensor]) -> None:
    """Write a graph with 8-bit weights and activations between its first and its last weights.

    The ranges are those of the images. All operators there are converted, since one that is left
    out between two others costs time for its conversions, and loses more.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    graph = onnx.load(exact).graph
    inner = find_middle_nodes(graph)
    quantize_static(
        exact,
        path,
        _CalibrationReader(batches),
        quant_format=QuantFormat.QDQ,
        nodes_to_exclude=[node.name for node in graph.node if node.name not in inner],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


class _CalibrationReader:
    """Gives calibration images to onnxruntime, one batch at a time."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches: Iterator[Tensor] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        images = next(self.batches, None)
        if images is None:
            return None
        targets = images.new_full((len(images),), -1).long()
        return dict(zip(INPUTS, (images.numpy(), targets.numpy()), strict=True))


def convert_to_half(model: Any) -> None:
    """Convert the middle of a float32 graph to float16, in place.

    The operators before the weights normalise, possibly counts beyond the range of 16 bits; those
    after the weights make masks of log-odds, where 0.9999 and 1 are far apart. Both stay in
    float32, as do loops, and the graph's inputs and outputs.

    Args:
        model: an ONNX model with inferred types of its tensors.
    """
    inner, graph = find_middle_nodes(model.graph), model.graph
    casts = _CastTable(graph)
    nodes = []
    for node in graph.node:
        floats = FLOAT_INPUTS.get(node.op_type, ())
        for index, name in enumerate(node.input):
            half = node.name in inner and index not in floats
            node.input[index] = casts.cast_to_half(name) if half else casts.cast_to_float(name)
        for subgraph in list_subgraphs(node):
            captured = find_captured(subgraph)
            rename_captured(subgraph, {name: casts.cast_to_float(name) for name in captured})
        nodes += [*casts.take_casts(), node]
        if node.name in inner:
            casts.halves += [name for name in node.output if name in casts.floats]
    for output in graph.output:
        if output.name in casts.halves:
            raise ValueError(f"{output.name} comes straight from weights")
    del graph.value_info[:], graph.node[:]
    graph.node.extend(nodes)
    unused = set(casts.weights).difference(*map(list_inputs, nodes))
    kept = [weights for weights in graph.initializer if weights.name not in unused]
    del graph.initializer[:]
    graph.initializer.extend(kept)


class _CastTable:
    """Knows which tensors are float32 or float16, and makes the casts between them."""

    def __init__(self, graph: Any) -> None:
        from onnx import TensorProto

        self.graph = graph
        described = [*graph.input, *graph.output, *graph.value_info]
        single = TensorProto.FLOAT
        types = {value.name: value.type.tensor_type.elem_type for value in described}
        self.weights = {w.name: w for w in graph.initializer if w.data_type == single}
        self.floats = {n for n, kind in types.items() if kind == single} | set(self.weights)
        self.halves: list[str] = []
        self._cast_names: set[str] = set()
        self._casts: list[Any] = []

    def cast_to_half(self, name: str) -> str:
        """Return the name of a tensor in half precision."""
        if name not in self.floats or name in self.halves:
            return name
        if name not in self.weights:
            return self._add_cast(name, f"{name}_half")
        if (half := f"{name}_half") not in self._cast_names:
            from onnx import numpy_helper

            values = numpy_helper.to_array(self.weights[name])
            limits = np.finfo(np.float16)
            values = values.clip(limits.min, limits.max).astype(np.float16)
            self.graph.initializer.append(numpy_helper.from_array(values, half))
            self._cast_names.add(half)
        return half

    def cast_to_float(self, name: str) -> str:
        """Return the name of a tensor in single precision."""
        return self._add_cast(name, f"{name}_single") if name in self.halves else name

    def take_casts(self) -> list[Any]:
        """Return the casts that were added since the last call."""
        casts, self._casts = self._casts, []
        return casts

    def _add_cast(self, name: str, to: str) -> str:
        from onnx import TensorProto, helper

        if to not in self._cast_names:
            kind = TensorProto.FLOAT16 if to.endswith("_half") else TensorProto.FLOAT
            self._casts.append(helper.make_node("Cast", [name], [to], name=f"cast_{to}", to=kind))
            self._cast_names.add(to)
        return to


def find_middle_nodes(graph: Any) -> set[str]:
    """Return the names of the nodes that hold weights or lie between nodes that do."""
    weights, after_weights = _find_weights(graph)
    weighted = {
        node.name
        for node in graph.node
        if node.op_type in WEIGHTED_OPERATORS and weights & set(node.input)
    }
    after: set[str] = set()
    for node in graph.node:
        if node.name in weighted or after & list_inputs(node):
            after |= set(node.output)
            after_weights.add(node.name)
    before: set[str] = set()
    middle: set[str] = set()
    for node in reversed(graph.node):
        if node.name in weighted or before & set(node.output):
            before |= list_inputs(node)
            has_type = node.op_type in UNTYPED_OPERATORS or list_subgraphs(node)
            if node.name in after_weights and not has_type:
                middle.add(node.name)
    return middle


def list_subgraphs(node: Any) -> list[Any]:
    """Return the graphs inside of a node, such as the body of a loop."""
    return [part.g for part in node.attribute if part.HasField("g")]


def find_captured(graph: Any) -> set[str]:
    """Return the names that a graph inside of a node takes from the graph around it."""
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own |= {name for node in graph.node for name in node.output}
    names = set().union(*map(list_inputs, graph.node), (value.name for value in graph.output))
    return names - own - {""}


def list_inputs(node: Any) -> set[str]:
    """Return the names of all that a node takes, by itself or in the graphs inside of it."""
    return set(node.input).union(*map(find_captured, list_subgraphs(node)))


def rename_captured(graph: Any, names: Mapping[str, str]) -> None:
    """Rename what a graph inside of a node takes from the graph around it, in place."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for inner in list_subgraphs(node):
            rename_captured(inner, names)


def _find_weights(graph: Any) -> tuple[set[str], set[str]]:
    """Return the names of all weights, also computed ones, and of the nodes that compute them."""
    constants = {value.name for value in graph.initializer}
    weights = {value.name for value in graph.initializer if len(value.dims) > 1}
    nodes = set()
    for node in graph.node:
        if weights & set(node.input) and constants.issuperset(node.input):
            constants |= set(node.output)
            weights |= set(node.output)
            nodes.add(node.name)
    return weights, nodes
