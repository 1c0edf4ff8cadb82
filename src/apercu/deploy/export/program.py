"""A `torch.export` program with any number of images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from apercu.classifiers.sources.archive import copy_checked_archive
from apercu.deploy.export.check import GraphFn
from apercu.deploy.export.onnx_graph import Traceable, describe_trace_failure, silence_exporter
from apercu.io import write_file


def write_program(traceable: Traceable, path: Path) -> Path:
    """Traces a module and writes it as a `.pt2` file; see `write_onnx`.

    Raises:
        ConfigError: the module cannot be traced.
        OutputError: the file cannot be written.
    """
    buffer = io.BytesIO()
    try:
        with torch.no_grad(), silence_exporter():
            program = torch.export.export(
                traceable.graph, traceable.inputs, dynamic_shapes=traceable.shapes
            )
            for node in program.graph.nodes:  # where in the source it came from
                node.meta.pop("stack_trace", None)
            torch.export.save(program, buffer)
    except Exception as error:
        raise describe_trace_failure(error) from error
    return write_file(path, buffer.getvalue())


def open_program(path: Path, names: Sequence[str]) -> GraphFn:
    """What a program answers, by name, once its archive was found free of foreign calls.

    Raises:
        ClassifierError: loading it could run code.
    """
    with silence_exporter():
        module = torch.export.load(copy_checked_archive(path)).module(check_guards=False)

    def answering(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return dict(zip(names, module(images, targets), strict=True))

    return answering
