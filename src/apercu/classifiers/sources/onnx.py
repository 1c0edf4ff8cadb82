"""ONNX files, answered by onnxruntime on the CPU: no gradients, no layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apercu.classifiers.card import ClassifierCard
from apercu.classifiers.fingerprint import digest_file
from apercu.classifiers.network import BlackBox, Network
from apercu.classifiers.sources.onnx_input import resolve_input, run_in_fixed_batches
from apercu.errors import ClassifierError


def open_onnx(card: ClassifierCard) -> Network:
    """Opens an `.onnx` file with one input, the images, and its classes as the first output.

    Raises:
        ClassifierError: onnxruntime is not installed, the file is missing or broken, or it
            takes no float images.
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

    def ask(images: Tensor) -> Tensor:
        fed = {inputs[0].name: images.float().contiguous().numpy()}
        return torch.from_numpy(session.run(None, fed)[0])

    return Network(
        source=card.source,
        forward=BlackBox(lambda images: run_in_fixed_batches(ask, images, fixed)),
        digest=digest_file(path),
        input=spec,
        output=card.output,
        differentiable=False,
    )


def _open_session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ClassifierError(
            f"classifier {path}: ONNX files need onnxruntime; pip install 'apercu[export]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.force_spinning_stop", "1"
    )  # cores are for others then
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ClassifierError(f"classifier {path}: not a usable ONNX file ({reason})") from None
