"""Trace a module into an ONNX graph or an exported program, and run either."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from apercu.classifiers import InputSpec
from apercu.classifiers.sources.archive import copy_checked_archive
from apercu.errors import ConfigError
from apercu.extras import require_extra
from apercu.io import write_file

GraphFn: TypeAlias = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""A function from images and targets to the outputs of a graph, by name."""
INPUTS = ("images", "targets")
_LOGGERS = (None, "torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")
"""Names of the loggers of the exporter; None is that of all."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_SAMPLE_SIZE = 2
"""Number of images that a graph is traced with; a single one would be taken for a constant."""


@dataclass(frozen=True, eq=False)
class Traceable:
    """A module that is ready to be traced.

    Attributes:
        module: computes the outputs from images and targets.
        outputs: the names of the outputs.
        inputs: sample images and targets.
        dynamic_axes: the axes of images and targets that may have any length, with their names.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    inputs: tuple[Tensor, Tensor]
    dynamic_axes: tuple[dict[int, Any], dict[int, Any]]

    @classmethod
    def for_images(cls, module: nn.Module, outputs: Sequence[str], spec: InputSpec) -> Traceable:
        """Return a module that takes any number of images, and a target for each."""
        images = torch.rand(_SAMPLE_SIZE, spec.channels, *spec.size, generator=_make_generator())
        batch = torch.export.Dim("batch", min=1)
        inputs = images, torch.arange(_SAMPLE_SIZE) - 1
        return cls(module.eval(), tuple(outputs), inputs, ({0: batch}, {0: batch}))

    @classmethod
    def for_classes(cls, module: nn.Module, outputs: Sequence[str], spec: InputSpec) -> Traceable:
        """Return a module that takes one image, and any number of targets for it."""
        images = torch.rand(1, spec.channels, *spec.size, generator=_make_generator())
        classes = torch.export.Dim("classes", min=1)
        inputs = images, torch.arange(_SAMPLE_SIZE) - 1
        return cls(module.eval(), tuple(outputs), inputs, ({}, {0: classes}))

    @property
    def takes_one_image(self) -> bool:
        """Whether the module takes one image at a time."""
        return not self.dynamic_axes[0]

    @torch.inference_mode()
    def __call__(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute the outputs with PyTorch, by name."""
        return dict(zip(self.outputs, self.module(images, targets), strict=True))


def write_onnx(traceable: Traceable, path: Path) -> Path:
    """Trace a module and write it as an ONNX file.

    Raises:
        ConfigError: the module cannot be traced, or a package of the extra `export` is missing.
        OutputError: the file cannot be written.
    """
    require_extra("export", "export")
    try:
        with torch.no_grad(), silence_exporter(), _FlatAttention():
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


class _FlatAttention(TorchFunctionMode):
    """Within the `with` block, attention has four axes, as the exporter knows no other number."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention or len(args) < 3 or args[0].ndim == 4:
            return func(*args, **options)
        query, key, value, *rest = args
        mask = rest.pop(0) if rest else options.pop("attn_mask", None)
        if mask is not None:
            mask = _flatten_leading(mask.expand(*query.shape[:-1], key.shape[-2]))
        flat = (_flatten_leading(values) for values in (query, key, value))
        attended = func(*flat, mask, *rest, **options)
        return attended.reshape(*query.shape[:-1], value.shape[-1])


def _flatten_leading(values: Tensor) -> Tensor:
    """Return a tensor with four axes: all before the last three become one."""
    return values.reshape(-1, *values.shape[-3:])


def open_session(path: Path, threads: int | None = None, *, spin: bool = True) -> Any:
    """Open an ONNX Runtime session on the CPU.

    Args:
        path: the path of the graph.
        threads: the number of threads that compute; None for torch's number.
        spin: whether threads wait for each other without sleeping; False leaves the cores to other
            work. Between two runs they sleep.

    Returns:
        An `onnxruntime.InferenceSession`.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    require_extra("export", "export", "onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_session(session: Any, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Run a session, and return its outputs by name."""
    names = [output.name for output in session.get_outputs()]
    inputs = (images.float().contiguous().numpy(), targets.numpy())
    outputs = session.run(names, dict(zip(INPUTS, inputs, strict=True)))
    return {name: torch.from_numpy(values) for name, values in zip(names, outputs, strict=True)}


def describe_trace_failure(error: Exception) -> ConfigError:
    """Return the error for a network that cannot be traced, with its first cause."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in _COLOURS.sub("", str(cause)).splitlines() if line.strip()]
    reason = lines[0][:200] if lines else type(cause).__name__
    return ConfigError(
        f"export: the network cannot be traced ({reason}); train with another --encoder, or "
        "leave the prediction out with --no-combined"
    )


@contextmanager
def silence_exporter() -> Iterator[None]:
    """Silence the warnings and the log of the exporter."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
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
    """Raise ConfigError if an axis was fixed to the length of the sample."""
    for value, axes in zip(model.graph.input, traceable.dynamic_axes, strict=True):
        if axes and not value.type.tensor_type.shape.dim[0].dim_param:
            raise describe_trace_failure(ValueError(f"it takes {_SAMPLE_SIZE} {value.name} only"))


def _strip_debug_info(model: Any) -> None:
    """Remove the source location of each node, and shapes that a reader infers."""
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""


def _make_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def write_program(traceable: Traceable, path: Path) -> Path:
    """Trace a module and write it as a `.pt2` file; see `write_onnx`.

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
            for node in program.graph.nodes:  # the source location
                node.meta.pop("stack_trace", None)
            torch.export.save(program, buffer)
    except Exception as error:
        raise describe_trace_failure(error) from error
    return write_file(path, buffer.getvalue())


def open_program(path: Path, names: Sequence[str]) -> GraphFn:
    """Open an exported program, once its archive was checked for foreign calls.

    Args:
        path: the path of the `.pt2` file.
        names: the names of its outputs.

    Returns:
        A function from images and targets to the outputs, by name.

    Raises:
        ClassifierError: loading it could run code.
    """
    with silence_exporter():
        module = torch.export.load(copy_checked_archive(path)).module(check_guards=False)

    def run_program(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return dict(zip(names, module(images, targets), strict=True))

    return run_program
