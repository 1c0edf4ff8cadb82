"""ONNX files, run by onnxruntime on the CPU: they give no gradients and show no layers.

A graph may take floats of any precision or bytes, images with channels first or last, any batch or
a fixed one, and may keep its weights in files beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from apercu.classifiers.card import ClassifierCard, InputSpec, make_input, validate
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import BlackBox, Network
from apercu.errors import ClassifierError, first_line
from apercu.extras import require_extra
from apercu.io import digest_file, is_file, is_inside

Layout: TypeAlias = Literal["nchw", "nhwc"]
"""The order of the axes: batch, channels, height, width, or with the channels last."""

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
"""Numbers that a graph may take; bytes are from 0 to 255."""
_MAPS = "seq(map("
"""Beginning of the type of an output that holds a map from classes to numbers for each image."""
_CHANNELS = (1, 3, 4)
"""Lengths of an axis that is taken for channels."""


class GraphOptions(BaseModel):
    """The options of a card whose source is an ONNX file.

    Attributes:
        layout: order of the axes of its input; found out from their lengths if None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout | None = None


@dataclass(frozen=True)
class GraphInput:
    """The input of a graph.

    Attributes:
        spec: what it expects of its images.
        batch: number of images per call where the graph fixes it, else None.
        layout: order of its axes.
    """

    spec: InputSpec
    batch: int | None
    layout: Layout

    def run(self, function: Callable[[Tensor], Any], images: Tensor) -> Any:
        """Run a graph on all images at once, or in the batches that it fixes.

        The last batch is filled up with its last image, whose further outputs are dropped.

        Args:
            function: images in the layout and the batch of the graph → its outputs.
            images: images, `batch × channels × height × width`.

        Returns:
            The outputs, one row per image.
        """
        if self.layout == "nhwc":
            images = images.permute(0, 2, 3, 1)
        if self.batch is None or len(images) == self.batch:
            return function(images)
        outputs = []
        for part in torch.split(images, self.batch):
            copies = part[-1:].expand(self.batch - len(part), -1, -1, -1)
            outputs.append(function(torch.cat((part, copies))))
        return _join(outputs, len(images))


def open_onnx(card: ClassifierCard) -> Network:
    """Open an `.onnx` file with one input, the images.

    Args:
        card: description of the classifier; its source is the file.

    Returns:
        The network, whose output is a dictionary of the graph's outputs.

    Raises:
        ClassifierError: the file is missing or broken, or takes no images.
        MissingExtraError: onnxruntime is not installed.
    """
    path = Path(card.source)
    if not is_file(path):
        raise ClassifierError(f"classifier {path}: no such file")
    require_extra("export", f"classifier {path}", "onnxruntime")
    digest = _digest_graph(path)
    session = _open_session(path)
    graph_input, dtype = _read_input(session.get_inputs(), card)
    name, outputs = session.get_inputs()[0].name, _choose_outputs(session.get_outputs(), card)

    def run(images: Tensor) -> dict[str, Any]:
        if dtype is np.uint8:
            images = (images * 255).round().clamp(0, 255)
        values = session.run(outputs, {name: np.ascontiguousarray(images.numpy().astype(dtype))})
        return dict(zip(outputs, values, strict=True))

    def read(images: Tensor) -> dict[str, Tensor]:
        return {key: _read_numbers(value) for key, value in run(images).items()}

    spec = graph_input.spec
    names = None
    if any(str(output.type).startswith(_MAPS) for output in session.get_outputs()):
        grey = torch.full((1, spec.channels, *spec.size), 0.5)
        names = _read_keys(graph_input.run(run, grey))
    return Network(
        source=card.source,
        forward=BlackBox(lambda images: graph_input.run(read, images), card.source),
        digest=digest,
        input=spec,
        output=card.output,
        names=names,
        options=card.options,
        differentiable=False,
    )


def resolve_input(
    shape: Sequence[int | None], card: ClassifierCard, layout: Layout | None = None
) -> GraphInput:
    """Return the input of a graph file as its card or the graph itself says.

    Args:
        shape: shape of the graph's input; None where an axis may have any length.
        card: description of the classifier, which says channels and size where the graph does not.
        layout: order of the axes; found out from their lengths if None.

    Returns:
        The input.

    Raises:
        ClassifierError: the graph takes no images, card and graph disagree, or neither says the
            size.
    """
    name = f"classifier {card.source}"
    if not shape and card.input is not None:  # a graph that leaves the shape open
        shape = [None] * 4
    if not shape:
        raise ClassifierError(
            f"{name}: the file does not say the shape of its images; set input.size and "
            "input.channels in a classifier card"
        )
    if len(shape) != 4:
        raise ClassifierError(
            f"{name}: expected an input batch × channels × height × width, "
            f"got {_format_shape(shape)}"
        )
    layout = layout or _guess_layout(shape, card)
    batch, *sides = shape if layout == "nchw" else (shape[0], shape[3], shape[1], shape[2])
    if card.input is not None:
        stated = (card.input.channels, *card.input.size)
        if any(side not in (None, s) for side, s in zip(sides, stated, strict=True)):
            raise ClassifierError(
                f"{name}: its card says {_format_shape(stated)}, "
                f"the file takes {_format_shape(sides)}"
            )
        return GraphInput(card.input, batch, layout)
    channels, height, width = sides
    if channels is None or height is None or width is None:
        raise ClassifierError(
            f"{name}: the file takes images of any size; set input.size in a classifier card "
            "(apercu card FILE --size HEIGHT,WIDTH)"
        )
    spec = make_input(name, channels=channels, size=(height, width))
    return GraphInput(spec, batch, layout)


def _guess_layout(shape: Sequence[int | None], card: ClassifierCard) -> Layout:
    """Return the layout whose channels have a length that channels have; first ones if both do.

    Other numbers of channels are recognised by two equal sides beside them, or by being the least.

    Raises:
        ClassifierError: the first and the last axis of an ONNX file may be the channels.
    """
    counts = _CHANNELS if card.input is None else (card.input.channels,)
    if shape[1] in counts or shape[3] in counts:
        return "nchw" if shape[1] in counts else "nhwc"
    sides = [side for side in shape[1:] if side is not None]
    if len(sides) < 3 or card.input is not None or not card.source.endswith(".onnx"):
        return "nchw"
    first, middle, last = sides
    if first != middle and (middle == last or first < min(middle, last)):
        return "nchw"
    if first == middle and 2 * last <= middle:
        return "nhwc"
    raise ClassifierError(
        f"classifier {card.source}: its input {_format_shape(sides)} may be {first} channels of "
        f"{middle} × {last} or {last} channels of {first} × {middle}; set options.layout to nchw "
        "or nhwc in a classifier card"
    )


def _join(outputs: Sequence[Any], count: int) -> Any:
    """Join the outputs of several calls, tensors or containers of them, up to a number of rows."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs))[:count]
    if isinstance(first, Mapping):
        return {key: _join([output[key] for output in outputs], count) for key in first}
    if isinstance(first, tuple | list):
        return tuple(_join(parts, count) for parts in zip(*outputs, strict=True))
    return first


def _read_input(inputs: Sequence[Any], card: ClassifierCard) -> tuple[GraphInput, Any]:
    """Return the input of a session, and the type of its numbers."""
    options = validate(GraphOptions, card.options, f"classifier {card.source}: options")
    if len(inputs) != 1 or inputs[0].type not in _DTYPES:
        got = ", ".join(f"{i.name}: {i.type}" for i in inputs)
        raise ClassifierError(
            f"classifier {card.source}: expected one input of floats or bytes, got {got}"
        )
    shape = [side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape]
    graph_input, dtype = resolve_input(shape, card, options.layout), _DTYPES[inputs[0].type]
    if dtype is np.uint8:
        check_bytes(graph_input.spec, card.source)
    return graph_input, dtype


def check_bytes(spec: InputSpec, source: str) -> None:
    """Refuse a normalisation of images that become bytes.

    Raises:
        ClassifierError: the input has a mean, a std or a rule.
    """
    if spec.mean or spec.std or spec.normalise:
        raise ClassifierError(
            f"classifier {source}: it takes bytes and normalises them itself; leave mean, std "
            "and normalise out of the input of its card"
        )


def _choose_outputs(outputs: Sequence[Any], card: ClassifierCard) -> list[str]:
    """Return the names of the outputs that hold numbers, or the one that the card names."""
    kinds = {output.name: str(output.type) for output in outputs}
    names = [
        name
        for name, kind in kinds.items()
        if kind.startswith(("tensor(", _MAPS)) and kind != "tensor(string)"
    ]
    if any(kinds[name].startswith(_MAPS) for name in names):  # the class stands beside its scores
        names = [name for name in names if kinds[name] != "tensor(int64)"]
    return [name for name in names if name == card.output_name] or names


def _read_numbers(value: Any) -> Tensor:
    """Return an output as a tensor; a list of maps from classes to numbers as a row for each."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return torch.tensor([list(row.values()) for row in value])


def _read_keys(values: Mapping[str, Any]) -> ClassNames | None:
    """Return the keys of the maps from classes to numbers as names; None where they are indices."""
    rows = [value[0] for value in values.values() if isinstance(value, list | tuple) and value]
    keys = list(rows[0]) if len(rows) == 1 else []
    return None if keys == list(range(len(keys))) else ClassNames.of(map(str, keys))


def _digest_graph(path: Path) -> str:
    """Return the SHA-256 of a graph, and of the files beside it that hold its weights."""
    digest, weights = digest_file(path), _list_weight_files(path)
    if not weights:
        return digest
    text = " ".join([digest, *(f"{name} {digest_file(path.parent / name)}" for name in weights)])
    return hashlib.sha256(text.encode()).hexdigest()


def _list_weight_files(path: Path) -> list[str]:
    """Return the names of the files that hold weights of a graph, relative to its folder.

    Raises:
        ClassifierError: the graph is broken, or a file is missing or outside of the folder.
    """
    if b"location" not in path.read_bytes():
        return []
    require_extra("export", f"classifier {path} with weights in other files", "onnx")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ClassifierError(f"classifier {path}: not a usable ONNX file ({error})") from None
    names = sorted({name for tensor in _walk_tensors(model) for name in _find_location(tensor)})
    folder = path.parent.resolve()
    for name in names:
        if not is_inside(folder / name, folder):
            raise ClassifierError(
                f"classifier {path}: its weights are said to be in {name}, outside of its folder; "
                "put them beside it"
            )
        if not is_file(folder / name):
            raise ClassifierError(
                f"classifier {path}: {name}, which holds its weights, is missing beside it"
            )
    return names


def _walk_tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor inside of a part of a model: weights, attributes, and inner graphs."""
    if type(message).__name__ == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Sequence) else [value]:
                yield from _walk_tensors(part)


def _find_location(tensor: Any) -> Iterator[str]:
    """Yield the name of the file in which a tensor is stored, if it is not in the graph."""
    if tensor.data_location == tensor.EXTERNAL:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _open_session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, too
    # between two calls the cores are free for other work
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = first_line(error)
        raise ClassifierError(f"classifier {path}: not a usable ONNX file ({reason})") from None


def _format_shape(shape: Sequence[int | None]) -> str:
    return " × ".join("any" if side is None else str(side) for side in shape)
