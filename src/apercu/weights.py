"""Weights of modules and functions: their identity, and the files that hold them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from apercu.errors import ClassifierError

_COUNTERS = "num_batches_tracked"
"""Buffers that change no output; files with and without them hold the same network."""

FORMER_FACTORIES = {
    "apercu.classifiers.small:SmallResNet": "apercu.classifiers.small_resnet:SmallResNet",
}
"""Former names of factories of this package → their present names.

Cards with a former name open as before. Fingerprints always hold the former name, so that the same
weights have the same fingerprint as in files of older versions.
"""


def digest_module(module: nn.Module, source: str, options: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a module's weights, in the order of their names, and of its source.

    The values count as the module holds them: a float16 file and its float32 copy are the same.

    Args:
        module: the network.
        source: source of the network, as in a card.
        options: options with which the source built it.

    Returns:
        64 hexadecimal digits.
    """
    former = {present: former for former, present in FORMER_FACTORIES.items()}.get(source, source)
    sha = hashlib.sha256(f"{former} {json.dumps(options, sort_keys=True, default=str)}".encode())
    for name, weight in sorted(module.state_dict().items()):
        if not name.endswith(_COUNTERS):
            _update(sha, name, weight)
    if isinstance(module, torch.jit.ScriptModule) and hasattr(module, "code"):
        sha.update(module.code.encode())
    return sha.hexdigest()


def digest_function(function: object, source: str, options: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the source of a function, and of its attribute `fingerprint`.

    The attribute is a text that changes with the weights. A function without it is identified by
    its source and options alone.

    Args:
        function: the function, which holds weights that cannot be seen.
        source: source of the function, as in a card.
        options: options with which the source built it.

    Returns:
        64 hexadecimal digits.
    """
    text = str(getattr(function, "fingerprint", ""))
    description = json.dumps([source, options, text], sort_keys=True, default=str)
    return hashlib.sha256(description.encode()).hexdigest()


def _update(sha: Any, name: str, value: Any) -> None:
    """Add a tensor, or whatever else a module keeps among its weights, to a hash."""
    if isinstance(value, torch.Tensor) and value.is_quantized:
        sha.update(f"{name} {value.qscheme()} {value.dequantize().tolist()}".encode())
        _update(sha, name, value.int_repr())
    elif isinstance(value, torch.Tensor):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            _update(sha, f"{name} {index}", part)
    else:
        sha.update(f"{name} {value!r}".encode())


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copy the weights of a safetensors file into a module, in the module's own precision.

    Raises:
        ClassifierError: the file is missing or has another format, or its tensors do not fit.
    """
    path = Path(path)
    try:
        stored = load_file(path)
    except FileNotFoundError:
        raise ClassifierError(f"weights {path}: no such file") from None
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        raise ClassifierError(
            f"weights {path}: expected a safetensors file ({error}); "
            "save the state_dict with safetensors.torch.save_file"
        ) from None
    check_finite(stored, path)
    if problems := _find_problems(module.state_dict(), stored):
        raise ClassifierError(f"weights {path}: {'; '.join(problems)}")
    state = module.state_dict()  # with the versions of its layers, which safetensors files lack
    state.update(stored)
    module.load_state_dict(state, strict=False)


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise ClassifierError if weights hold NaN or infinite numbers."""
    numbers = {name: w.float() if w.element_size() == 1 else w for name, w in weights.items()}
    bad = [name for name, tensor in numbers.items() if not tensor.isfinite().all()]
    if bad:
        raise ClassifierError(
            f"weights {path}: {len(bad)} tensors hold NaN or infinite numbers, such as {bad[0]}; "
            "train the network again, or copy the file again"
        )


def _find_problems(expected: dict[str, Tensor], stored: dict[str, Tensor]) -> list[str]:
    """Return one clause per kind of difference between two sets of weights."""
    missing = [k for k in expected if k not in stored and not k.endswith(_COUNTERS)]
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
