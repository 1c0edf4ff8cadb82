"""Programs written by `torch.export.save`: they give gradients, but show no layers.

A program may return feature maps after its logits, so that it can be an encoder. Then the options
of its card hold their `strides`. A program that was exported from another classifier has the
fingerprint of that one: the options hold its `digest`, and the `sha256` of the file.
"""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.passes import move_to_device_pass

from apercu.classifiers.card import ClassifierCard, InputSpec, validate
from apercu.classifiers.network import Network
from apercu.classifiers.probe import find_dtype
from apercu.classifiers.sources.archive import copy_checked_archive
from apercu.classifiers.sources.onnx import GraphInput, check_bytes, resolve_input
from apercu.classifiers.trust import is_trusting
from apercu.errors import ClassifierError, first_line
from apercu.io import digest_file, is_file


class ProgramOptions(BaseModel):
    """The options of a card whose source is an exported program.

    Attributes:
        digest: identity of the network that was exported; that of the file if None.
        sha256: SHA-256 of the file for which the digest holds.
        strides: strides of the feature maps that the program returns after its logits, finest
            first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str | None = None
    sha256: str | None = None
    strides: tuple[int, ...] = ()


class ExportedNetwork:
    """An exported program that runs on any device, in batches that its graph allows.

    Args:
        program: the program.
        graph_input: the batch and the layout that the program fixes.
        dtype: the kind of numbers that it takes: floats, or bytes from 0 to 255.
        strides: strides of the feature maps that follow the logits.
    """

    def __init__(
        self,
        program: ExportedProgram,
        graph_input: GraphInput,
        dtype: torch.dtype = torch.float32,
        strides: tuple[int, ...] = (),
    ) -> None:
        self.program = program
        self.dtype = dtype
        self.strides = strides
        self.device = torch.device("cpu")
        self._graph_input = graph_input
        self.module = _build_module(program)

    def __call__(self, images: Tensor) -> Any:
        return self.run(images)[0] if self.strides else self.run(images)

    def run(self, images: Tensor) -> Any:
        """Return all outputs of the program for normalised images."""
        if self.dtype == torch.uint8:
            images = (images * 255).round().clamp(0, 255)
        return self._graph_input.run(self.module, images.to(self.dtype))

    def to(self, device: torch.device) -> None:
        """Move the program to a device."""
        self.program = move_to_device_pass(self.program, device)
        self.module = _build_module(self.program)
        self.device = torch.device(device)


def open_exported(card: ClassifierCard) -> Network:
    """Open a `.pt2` file, after a check of all that its archive holds, unless it is trusted.

    The network is in the mode in which it was exported, and stays in it.

    Args:
        card: description of the classifier; its source is the file.

    Returns:
        The network.

    Raises:
        UntrustedError: the file could run code, and is not trusted.
        ClassifierError: the file is missing, is not the one that its card describes,
            comes from another version of torch, or takes no images.
    """
    path = Path(card.source)
    if not is_file(path):
        raise ClassifierError(f"classifier {path}: no such file")
    options = validate(ProgramOptions, card.options, f"classifier {path}: options")
    digest = digest_file(path)
    if options.sha256 not in (None, digest):
        raise ClassifierError(
            f"classifier {path}: the file is not the one that its card describes; save it again"
        )
    archive = path if is_trusting() else copy_checked_archive(path)
    try:
        program = torch.export.load(archive)
    except Exception as error:
        reason = first_line(error)
        raise ClassifierError(
            f"classifier {path}: torch {torch.__version__} cannot read it ({reason}); "
            "export it again with this version, or use ONNX"
        ) from error
    graph_input, dtype = _read_input(program, card)
    return Network(
        source=card.source,
        forward=ExportedNetwork(program, graph_input, dtype, options.strides),
        digest=(options.sha256 and options.digest) or digest,
        input=graph_input.spec,
        output=card.output,
    )


def export_module(module: nn.Module, spec: InputSpec, source: str) -> ExportedProgram:
    """Export a module in evaluation mode, for any batch if it allows that, else for one image.

    Args:
        module: network from normalised images to a tensor, or to a tuple of tensors.
        spec: what the network expects of its images.
        source: source of the network, for the error.

    Returns:
        The program, on the CPU.

    Raises:
        ClassifierError: torch.export cannot trace the module.
    """
    images = torch.full((2, spec.channels, *spec.size), 0.5, dtype=find_dtype(module))
    batch = Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = copy.deepcopy(module).cpu().eval()  # copies of traced modules are in training
            module.to(memory_format=torch.contiguous_format)
            try:
                program = torch.export.export(module, (images,), dynamic_shapes=({0: batch},))
            except Exception:
                program = torch.export.export(module, (images[:1],))
        except Exception as error:
            reason = first_line(error)
            raise ClassifierError(
                f"classifier {source}: torch.export cannot trace it ({reason}); put the code that "
                "builds it into a function, and open package.module:function"
            ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of source files
    return program


def serialise_program(program: ExportedProgram, source: str) -> bytes:
    """Return the bytes of a `.pt2` file, which `open_exported` accepts.

    Raises:
        ClassifierError: the program calls operators that cannot be opened again.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(move_to_device_pass(program, "cpu"), buffer)
    return copy_checked_archive(f"classifier {source}", buffer.getvalue()).getvalue()


def _build_module(program: ExportedProgram) -> Any:
    """Return the program as a frozen module, whose mode cannot be changed."""
    module = program.module(check_guards=False).requires_grad_(False)
    for name in ("train", "eval"):  # the methods of an exported module raise errors
        vars(module).pop(name, None)
    return module


def _read_input(program: ExportedProgram, card: ClassifierCard) -> tuple[GraphInput, torch.dtype]:
    """Return the input of a program, and the kind of its numbers."""
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    values = [node.meta["val"] for node in nodes if node.name in names]
    if len(values) != 1:
        raise ClassifierError(
            f"classifier {card.source}: expected one input, images, got {len(values)}"
        )
    dtype: torch.dtype = values[0].dtype
    if not (dtype.is_floating_point or dtype == torch.uint8):
        raise ClassifierError(
            f"classifier {card.source}: expected an input of floats or bytes, got "
            f"{str(dtype).removeprefix('torch.')}; export it with one of them"
        )
    shape = [side if isinstance(side, int) else None for side in values[0].shape]
    graph_input = resolve_input(shape, card)
    if dtype == torch.uint8:
        check_bytes(graph_input.spec, card.source)
    return graph_input, dtype
