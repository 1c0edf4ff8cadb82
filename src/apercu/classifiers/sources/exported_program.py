"""Programs written by `torch.export.save`: they give gradients, but show no layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from apercu.classifiers.card import ClassifierCard, InputSpec
from apercu.classifiers.fingerprint import digest_file
from apercu.classifiers.network import Network
from apercu.classifiers.sources.archive import copy_checked_archive
from apercu.classifiers.sources.onnx import resolve_input, run_in_fixed_batches
from apercu.errors import ClassifierError


def open_exported(card: ClassifierCard) -> Network:
    """Open a `.pt2` file, after a check that its archive has no pickles and no unknown calls.

    The network is in the mode in which it was exported, and stays in it.

    Args:
        card: description of the classifier; its source is the file.

    Returns:
        The network.

    Raises:
        ClassifierError: the file is missing or refused, comes from another version of torch, or
            takes no images.
    """
    path = Path(card.source)
    if not path.is_file():
        raise ClassifierError(f"classifier {path}: no such file")
    archive = copy_checked_archive(path)
    try:
        program = torch.export.load(archive)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClassifierError(
            f"classifier {path}: torch {torch.__version__} cannot read it ({reason}); "
            "export it again with this version, or use ONNX"
        ) from error
    spec, fixed = _read_input(program, card)
    return Network(
        source=card.source,
        forward=_ExportedNetwork(program, fixed),
        digest=digest_file(path),
        input=spec,
        output=card.output,
    )


class _ExportedNetwork:
    """An exported program that runs on any device, in batches that its graph allows."""

    def __init__(self, program: ExportedProgram, fixed_batch: int | None) -> None:
        self._program = program
        self._fixed_batch = fixed_batch
        self._module: Any = program.module(check_guards=False).requires_grad_(False)

    def __call__(self, images: Tensor) -> Tensor:
        return run_in_fixed_batches(self._module, images, self._fixed_batch)

    def to(self, device: torch.device) -> None:
        from torch.export.passes import move_to_device_pass

        self._program = move_to_device_pass(self._program, device)
        self._module = self._program.module(check_guards=False).requires_grad_(False)


def _read_input(program: ExportedProgram, card: ClassifierCard) -> tuple[InputSpec, int | None]:
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    shapes = [node.meta["val"].shape for node in nodes if node.name in names]
    if len(shapes) != 1:
        raise ClassifierError(
            f"classifier {card.source}: expected one input, images, got {len(shapes)}"
        )
    return resolve_input([s if isinstance(s, int) else None for s in shapes[0]], card)
