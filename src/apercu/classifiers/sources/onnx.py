"""ONNX files, run by onnxruntime on the CPU: they give no gradients and show no layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apercu.classifiers.card import ClassifierCard, InputSpec
from apercu.classifiers.fingerprint import digest_file
from apercu.classifiers.network import BlackBox, Network
from apercu.errors import ClassifierError
from apercu.extras import require_extra


def open_onnx(card: ClassifierCard) -> Network:
    """Open an `.onnx` file with one input, the images, and the classes as its first output.

    Args:
        card: description of the classifier; its source is the file.

    Returns:
        The network.

    Raises:
        ClassifierError: the file is missing or broken, or takes no float images.
        MissingExtraError: onnxruntime is not installed.
    """
    path = Path(card.source)
    if not path.is_file():
        raise ClassifierError(f"classifier {path}: no such file")
    session = _open_session(path)
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        got = ", ".join(f"{i.name}: {i.type}" for i in inputs)
        raise ClassifierError(f"classifier {path}: expected one float32 input, got {got}")
    shape = [side if isinstance(side, int) else None for side in inputs[0].shape]
    spec, fixed = resolve_input(shape, card)

    def run(images: Tensor) -> Tensor:
        feed = {inputs[0].name: images.float().contiguous().numpy()}
        return torch.from_numpy(session.run(None, feed)[0])

    return Network(
        source=card.source,
        forward=BlackBox(lambda images: run_in_fixed_batches(run, images, fixed)),
        digest=digest_file(path),
        input=spec,
        output=card.output,
        differentiable=False,
    )


def resolve_input(
    shape: Sequence[int | None], card: ClassifierCard
) -> tuple[InputSpec, int | None]:
    """Return the input of a graph file as its card or the graph itself says.

    Args:
        shape: shape of the graph's input; None where an axis may have any length.
        card: description of the classifier, which says channels and size where the graph does not.

    Returns:
        The input, and the batch size where the graph fixes it (to one), else None.

    Raises:
        ClassifierError: the graph takes no images, card and graph disagree, or neither says the
            size.
    """
    name = f"classifier {card.source}"
    if len(shape) != 4 or shape[0] not in (None, 1):
        raise ClassifierError(
            f"{name}: expected an input batch × channels × height × width with any batch, "
            f"got {_format_shape(shape)}; export it with a dynamic batch"
        )
    if card.input is not None:
        stated = (card.input.channels, *card.input.size)
        if any(side not in (None, s) for side, s in zip(shape[1:], stated, strict=True)):
            raise ClassifierError(
                f"{name}: its card says {_format_shape(stated)}, "
                f"the file takes {_format_shape(shape[1:])}"
            )
        return card.input, shape[0]
    channels, height, width = shape[1:]
    if channels is None or height is None or width is None:
        raise ClassifierError(
            f"{name}: the file takes images of any size; say input.size in a classifier card"
        )
    return InputSpec(channels=channels, size=(height, width)), shape[0]


def run_in_fixed_batches(
    function: Callable[[Tensor], Any], images: Tensor, fixed_batch: int | None
) -> Any:
    """Run a graph on all images at once, or one by one where it fixes the batch to one."""
    if fixed_batch is None or len(images) == fixed_batch:
        return function(images)
    outputs = [function(image) for image in torch.split(images, fixed_batch)]
    if isinstance(outputs[0], tuple):
        return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
    return torch.cat(outputs)


def _open_session(path: Path) -> Any:
    require_extra("export", f"classifier {path}", "onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # between two calls the cores are free for other work
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ClassifierError(f"classifier {path}: not a usable ONNX file ({reason})") from None


def _format_shape(shape: Sequence[int | None]) -> str:
    return " × ".join("any" if side is None else str(side) for side in shape)
