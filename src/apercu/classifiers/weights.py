"""Weights from safetensors files into modules, strictly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from apercu.errors import ClassifierError


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copies a safetensors file into a module; half precision is cast to the module's own.

    Raises:
        ClassifierError: the file is missing or of another format, or its tensors do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise ClassifierError(f"weights {path}: no such file")
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise ClassifierError(
            f"weights {path}: expected a safetensors file ({error}); "
            "save the state_dict with safetensors.torch.save_file"
        ) from None
    wanted = module.state_dict()
    if problems := _find_problems(wanted, stored):
        raise ClassifierError(f"weights {path}: {'; '.join(problems)}")
    module.load_state_dict(stored, strict=False)


def _find_problems(expected: dict[str, Tensor], stored: dict[str, Tensor]) -> list[str]:
    missing = [k for k in expected if k not in stored and not k.endswith("num_batches_tracked")]
    extra = [key for key in stored if key not in expected]
    misshaped = [
        f"{key} {tuple(stored[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in stored
        if key in expected and stored[key].shape != expected[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", extra), ("of another shape", misshaped))
    return [f"{len(keys)} {kind}: {_list_first(keys)}" for kind, keys in kinds if keys]


def _list_first(words: Sequence[str], limit: int = 3) -> str:
    return ", ".join(words[:limit]) + (", …" if len(words) > limit else "")
