"""Graphs in fewer bits: half precision, and 8-bit integers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from apercu.deploy.export.settings import Precision
from apercu.deploy.export.tracing import INPUTS, silence_exporter
from apercu.errors import ConfigError
from apercu.io import write_file

QUANTISED_OPERATORS = ["Conv", "Gemm"]


def convert_graph(exact: Path, precision: Precision, path: Path, calibration: list[Tensor]) -> Path:
    """Writes a graph of another precision.

    Args:
        exact: the float32 graph.
        precision: the other one.
        path: of the new file.
        shown: batches of images that `int8-static` learns the ranges of activations from.

    Raises:
        ConfigError: onnxruntime cannot convert the graph.
        OutputError: the file cannot be written.
    """
    if precision == "fp32":
        return write_file(path, exact.read_bytes())
    try:
        with silence_exporter(), tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / path.name
            if precision == "fp16":
                _write_half(exact, made)
            elif precision == "int8":
                _write_dynamic_int8(exact, made)
            else:
                _write_static_int8(exact, made, calibration)
            return write_file(path, made.read_bytes())
    except (RuntimeError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
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
    """8-bit weights; the range of activations is found anew for every image."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        exact,
        path,
        op_types_to_quantize=QUANTISED_OPERATORS,
        weight_type=QuantType.QUInt8,
        per_channel=True,
    )


def _write_static_int8(exact: Path, path: Path, batches: list[Tensor]) -> None:
    """8-bit weights and activations between the first weights and the last.

    Their ranges are those seen in the images. All operators there are turned: one left out between
    two costs time for its conversions, and loses more.
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
    """Hands calibration images to onnxruntime, one batch at a time."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.left: Iterator[Tensor] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        images = next(self.left, None)
        if images is None:
            return None
        targets = images.new_full((len(images),), -1).long()
        return dict(zip(INPUTS, (images.numpy(), targets.numpy()), strict=True))


WEIGHTED_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that hold weights."""
UNTYPED_OPERATORS = ("Cast", "CastLike", "Constant", "ConstantOfShape", "Range", "Shape", "Size")
"""Operators whose type is their own affair."""
FLOAT_INPUTS = {"Resize": (1, 2)}
"""Inputs that have to be float32, by operator."""


def convert_to_half(model: Any) -> None:
    """Turns the middle of a float32 graph into float16, in place.

    What comes before the weights normalises, possibly counts beyond what 16 bits hold; what comes
    after makes masks of log-odds, where 0.9999 and 1 are far apart. Both stay, as do the graph's
    inputs and outputs.

    Args:
        model: with the types of its tensors inferred.
    """
    inner, graph = find_middle_nodes(model.graph), model.graph
    turning = _CastTable(graph)
    nodes = []
    for node in graph.node:
        fixed = FLOAT_INPUTS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            half = node.name in inner and place not in fixed
            node.input[place] = turning.cast_to_half(name) if half else turning.cast_to_float(name)
        nodes += [*turning.take_casts(), node]
        if node.name in inner:
            turning.halves += [name for name in node.output if name in turning.floats]
    for output in graph.output:
        if output.name in turning.halves:
            raise ValueError(f"{output.name} comes straight from weights")
    del graph.value_info[:], graph.node[:]
    graph.node.extend(nodes)
    unused = set(turning.weights).difference(*(node.input for node in nodes))
    kept = [weights for weights in graph.initializer if weights.name not in unused]
    del graph.initializer[:]
    graph.initializer.extend(kept)


class _CastTable:
    """Which tensors are float32 or float16, and the casts between them."""

    def __init__(self, graph: Any) -> None:
        from onnx import TensorProto

        self.graph = graph
        described = [*graph.input, *graph.output, *graph.value_info]
        single = TensorProto.FLOAT
        types = {one.name: one.type.tensor_type.elem_type for one in described}
        self.weights = {w.name: w for w in graph.initializer if w.data_type == single}
        self.floats = {n for n, kind in types.items() if kind == single} | set(self.weights)
        self.halves: list[str] = []
        self._known: set[str] = set()
        self._casts: list[Any] = []

    def cast_to_half(self, name: str) -> str:
        """The name of a tensor in half precision."""
        if name not in self.floats or name in self.halves:
            return name
        if name not in self.weights:
            return self._add_cast(name, f"{name}_half")
        if (half := f"{name}_half") not in self._known:
            from onnx import numpy_helper

            values = numpy_helper.to_array(self.weights[name])
            limits = np.finfo(np.float16)
            values = values.clip(limits.min, limits.max).astype(np.float16)
            self.graph.initializer.append(numpy_helper.from_array(values, half))
            self._known.add(half)
        return half

    def cast_to_float(self, name: str) -> str:
        """The name of a tensor in single precision."""
        return self._add_cast(name, f"{name}_single") if name in self.halves else name

    def take_casts(self) -> list[Any]:
        """The casts that are needed now."""
        casts, self._casts = self._casts, []
        return casts

    def _add_cast(self, name: str, to: str) -> str:
        from onnx import TensorProto, helper

        if to not in self._known:
            kind = TensorProto.FLOAT16 if to.endswith("_half") else TensorProto.FLOAT
            self._casts.append(helper.make_node("Cast", [name], [to], name=f"cast_{to}", to=kind))
            self._known.add(to)
        return to


def find_middle_nodes(graph: Any) -> set[str]:
    """Names of the nodes that come after some weights and before some others, or hold them."""
    weights, below = _find_weights(graph)
    weighed = {
        node.name
        for node in graph.node
        if node.op_type in WEIGHTED_OPERATORS and weights & set(node.input)
    }
    after: set[str] = set()
    for node in graph.node:
        if node.name in weighed or after & set(node.input):
            after |= set(node.output)
            below.add(node.name)
    before: set[str] = set()
    found: set[str] = set()
    for node in reversed(graph.node):
        if node.name in weighed or before & set(node.output):
            before |= set(node.input)
            if node.name in below and node.op_type not in UNTYPED_OPERATORS:
                found.add(node.name)
    return found


def _find_weights(graph: Any) -> tuple[set[str], set[str]]:
    """Names of all weights, also of those that are turned first, and of the nodes that do so."""
    known = {one.name for one in graph.initializer}
    weights = {one.name for one in graph.initializer if len(one.dims) > 1}
    turning = set()
    for node in graph.node:
        if weights & set(node.input) and known.issuperset(node.input):
            known |= set(node.output)
            weights |= set(node.output)
            turning.add(node.name)
    return weights, turning
