"""Graphs in fewer bits: half precision, and 8-bit integers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from apercu.deploy.export.half import find_middle_nodes, halve
from apercu.deploy.export.onnx_graph import INPUTS, silence_exporter
from apercu.deploy.export.settings import Precision
from apercu.errors import ConfigError
from apercu.io import write_file

QUANTISED = ["Conv", "Gemm"]


def convert_graph(exact: Path, precision: Precision, path: Path, images: list[Tensor]) -> Path:
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
                _halve(exact, made)
            elif precision == "int8":
                _quantise(exact, made)
            else:
                _calibrate(exact, made, images)
            return write_file(path, made.read_bytes())
    except (RuntimeError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ConfigError(
            f"precision: onnxruntime cannot convert this graph to {precision} ({reason}); "
            "use --precision fp32"
        ) from error


def _halve(exact: Path, made: Path) -> None:
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(exact))
    halve(model)
    onnx.checker.check_model(model)
    onnx.save(model, made)


def _quantise(exact: Path, made: Path) -> None:
    """8-bit weights; the range of activations is found anew for every image."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        exact, made, op_types_to_quantize=QUANTISED, weight_type=QuantType.QUInt8, per_channel=True
    )


def _calibrate(exact: Path, made: Path, shown: list[Tensor]) -> None:
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
        made,
        _CalibrationReader(shown),
        quant_format=QuantFormat.QDQ,
        nodes_to_exclude=[node.name for node in graph.node if node.name not in inner],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


class _CalibrationReader:
    """Hands calibration images to onnxruntime, one batch at a time."""

    def __init__(self, shown: list[Tensor]) -> None:
        self.left: Iterator[Tensor] = iter(shown)

    def get_next(self) -> dict[str, Any] | None:
        images = next(self.left, None)
        if images is None:
            return None
        targets = images.new_full((len(images),), -1).long()
        return dict(zip(INPUTS, (images.numpy(), targets.numpy()), strict=True))
