"""From a traceable module to an ONNX graph, and a session that runs it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from apercu.classifiers import InputSpec
from apercu.classifiers.sources.archive import copy_checked_archive
from apercu.errors import ConfigError
from apercu.io import write_file

GraphFn: TypeAlias = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""A function from images and targets to the outputs of a graph, by name."""
INPUTS = ("images", "targets")
_SAMPLE_SIZE = 2
"""Images that a graph is traced with: one would be taken for a constant."""


@dataclass(frozen=True, eq=False)
class Traceable:
    """A module that is ready to be traced.

    Attributes:
        graph: images, targets → the outputs.
        outputs: their names.
        inputs: samples of both.
        shapes: which of their axes may have any length, and what that is called.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    inputs: tuple[Tensor, Tensor]
    dynamic_axes: tuple[dict[int, Any], dict[int, Any]]

    @classmethod
    def for_images(cls, module: nn.Module, outputs: Sequence[str], spec: InputSpec) -> Traceable:
        """A graph that takes any number of images, and a target for each."""
        images = torch.rand(_SAMPLE_SIZE, spec.channels, *spec.size, generator=_make_generator())
        batch = torch.export.Dim("batch", min=1)
        inputs = images, torch.arange(_SAMPLE_SIZE) - 1
        return cls(module.eval(), tuple(outputs), inputs, ({0: batch}, {0: batch}))

    @classmethod
    def for_classes(cls, module: nn.Module, outputs: Sequence[str], spec: InputSpec) -> Traceable:
        """A graph that takes one image, and any number of targets for it."""
        images = torch.rand(1, spec.channels, *spec.size, generator=_make_generator())
        classes = torch.export.Dim("classes", min=1)
        inputs = images, torch.arange(_SAMPLE_SIZE) - 1
        return cls(module.eval(), tuple(outputs), inputs, ({}, {0: classes}))

    @property
    def takes_one_image(self) -> bool:
        """Whether it takes one image at a time."""
        return not self.dynamic_axes[0]

    @torch.inference_mode()
    def __call__(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """What PyTorch answers, by name."""
        return dict(zip(self.outputs, self.module(images, targets), strict=True))


def write_onnx(traceable: Traceable, path: Path) -> Path:
    """Traces a module and writes it as an ONNX file.

    Raises:
        ConfigError: the module cannot be traced, or a package of the extra `export` is missing.
        OutputError: the file cannot be written.
    """
    need_onnx()
    try:
        with torch.no_grad(), silence_exporter():
            program = torch.onnx.export(
                traceable.module,
                traceable.inputs,
                input_names=list(INPUTS),
                output_names=list(traceable.outputs),
                dynamic_shapes=traceable.dynamic_axes,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise describe_trace_failure(error) from error
    model = cast(Any, program).model_proto
    _check_axes(model, traceable)
    _strip_debug_info(model)
    return write_file(path, model.SerializeToString(deterministic=True))


def open_session(path: Path, threads: int | None = None, *, spin: bool = True) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        path: of the graph.
        threads: how many compute; torch's number where None.
        spin: whether threads wait awake for each other; other work on the same cores wants False.
            Between two runs they sleep.
    """
    need_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_session(session: Any, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """What a session answers, by name."""
    names = [output.name for output in session.get_outputs()]
    given = (images.float().contiguous().numpy(), targets.numpy())
    found = session.run(names, dict(zip(INPUTS, given, strict=True)))
    return {name: torch.from_numpy(values) for name, values in zip(names, found, strict=True)}


def need_onnx() -> None:
    """Raises ConfigError where the packages of the extra `export` are missing."""
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise ConfigError(
            f"export: ONNX needs {error.name}; pip install 'apercu[export]'"
        ) from None
    del onnx, onnxruntime, onnxscript


def describe_trace_failure(error: Exception) -> ConfigError:
    """What is said where a network cannot be traced."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0][:200] if lines else type(error).__name__
    return ConfigError(
        f"export: the network cannot be traced ({reason}); train with another --encoder, or "
        "leave the prediction out with --no-combined"
    )


@contextmanager
def silence_exporter() -> Iterator[None]:
    """Keeps the exporter's remarks back."""
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_axes(model: Any, traceable: Traceable) -> None:
    """Raises ConfigError where an axis has been fixed to the sample's length."""
    for value, free in zip(model.graph.input, traceable.dynamic_axes, strict=True):
        if free and not value.type.tensor_type.shape.dim[0].dim_param:
            raise describe_trace_failure(ValueError(f"it takes {_SAMPLE_SIZE} {value.name} only"))


def _strip_debug_info(model: Any) -> None:
    """Takes out where in the source each node came from, and shapes that a reader infers."""
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""


def _make_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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
                traceable.module, traceable.inputs, dynamic_shapes=traceable.dynamic_axes
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
