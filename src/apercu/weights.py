"""Weights of modules and functions: their identity, and the files that hold them."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from apercu.errors import ClassifierError, first_line

_COUNTERS = "num_batches_tracked"
"""Buffers that change no output; files with and without them hold the same network."""

CHECKPOINT_ENDINGS = (".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Endings of files of weights that `torch.save` wrote."""
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Names that wrappers of torch put between those of the layers."""
_AVERAGED = "n_averaged"
"""A number beside the weights of an average of networks."""

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
    """Copy the weights of a file into a module, in the module's own precision.

    A file of `torch.save` may hold them inside of a checkpoint. Their names may begin with the
    names of wrappers, such as `module.` or `model.`, the same for all.

    Args:
        module: the network.
        path: a safetensors file, or a file of `torch.save` with one of the endings of checkpoints.

    Raises:
        ClassifierError: the file is missing or has another format, or its tensors do not fit.
    """
    path = Path(path)
    expected = module.state_dict()  # with the versions of its layers, which safetensors files lack
    is_checkpoint = path.suffix.lower() in CHECKPOINT_ENDINGS
    sets = _read_checkpoint(path) if is_checkpoint else {"": _read_safetensors(path)}
    stored = _choose_weights(expected, sets, path)
    if problems := _find_problems(expected, stored):
        raise ClassifierError(f"weights {path}: {'; '.join(problems)}")
    check_finite(stored, path)
    expected.update(stored)
    module.load_state_dict(expected, strict=False)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ClassifierError(f"weights {path}: no such file") from None
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        hint = (
            f"; a file of torch.save ends with {CHECKPOINT_ENDINGS[0]}" if _is_saved(path) else ""
        )
        raise ClassifierError(
            f"weights {path}: expected a safetensors file ({error}); "
            f"save the state_dict with safetensors.torch.save_file{hint}"
        ) from None


def _read_checkpoint(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the sets of tensors in a file of `torch.save` by their keys, whose code is not run.

    The key of a state_dict that is the whole file is "".

    Raises:
        ClassifierError: it is missing, or holds no state_dict.
    """
    advice = "save the state_dict of the network alone with safetensors.torch.save_file"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = archive.filelist
            if any(member.filename.partition("/")[2].startswith("code/") for member in members):
                raise ClassifierError(f"weights {path}: it holds TorchScript; {advice}")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ClassifierError(f"weights {path}: it is compressed; {advice}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ClassifierError(f"weights {path}: no such file") from None
    except ClassifierError:
        raise
    except Exception as error:  # pickles may fail in any way
        is_other = "weights_only" in str(error) or "WeightsUnpickler" in str(error)
        reason = "it holds other objects than tensors" if is_other else first_line(error)
        raise ClassifierError(
            f"weights {path}: expected a state_dict written by torch.save ({reason}); {advice}"
        ) from None
    candidates = {"": content, **(content if isinstance(content, Mapping) else {})}
    sets = {str(key): _list_tensors(value) for key, value in candidates.items()}
    sets = {key: tensors for key, tensors in sets.items() if tensors}
    if not sets:
        raise ClassifierError(f"weights {path}: it holds no state_dict; {advice}")
    return sets


def _list_tensors(value: object) -> dict[str, Tensor]:
    """Return a state_dict without what are no tensors; empty for anything else."""
    if not isinstance(value, Mapping):
        return {}
    return {
        str(name): tensor
        for name, tensor in value.items()
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    }


def _choose_weights(
    expected: Mapping[str, Tensor], sets: Mapping[str, dict[str, Tensor]], path: Path
) -> dict[str, Tensor]:
    """Return the tensors of a file that fit a network, with its own names; else the nearest ones.

    Raises:
        ClassifierError: several fit, such as those of a network and of its average.
    """
    choices = {
        f"{key} {beginning}".strip(): tensors
        for key, stored in sets.items()
        for beginning, tensors in _unwrap_names(expected, stored).items()
    }
    fitting = [key for key, tensors in choices.items() if not _find_problems(expected, tensors)]
    if len(fitting) > 1:
        raise ClassifierError(
            f"weights {path}: it holds several networks that fit, {', '.join(fitting)}; save one "
            "of them with safetensors.torch.save_file"
        )
    nearest = max(choices, key=lambda key: len(expected.keys() & choices[key].keys()))
    return choices[fitting[0] if fitting else nearest]


def _unwrap_names(
    expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Return tensors without the names of wrappers, by the beginning that was taken away.

    Where two beginnings have all the names of the network, each has its own tensors.
    """
    tensors = {
        key if key in expected else _WRAPPERS.sub("", key): tensor
        for key, tensor in stored.items()
        if key != _AVERAGED
    }
    needed = [key for key in expected if not key.endswith(_COUNTERS)]
    if not needed or needed[0] in tensors:
        return {"": tensors}
    beginnings = {key.removesuffix(needed[0]) for key in tensors if key.endswith(f".{needed[0]}")}
    fitting = sorted(b for b in beginnings if all(f"{b}{key}" in tensors for key in needed))
    if len(fitting) < 2:
        beginning = "".join(fitting)
        return {beginning: {key.removeprefix(beginning): t for key, t in tensors.items()}}
    return {
        beginning: {
            key.removeprefix(beginning): tensor
            for key, tensor in tensors.items()
            if key.startswith(beginning)
        }
        for beginning in fitting
    }


def _is_saved(path: Path) -> bool:
    """Whether a file begins as those of `torch.save` do."""
    try:
        with path.open("rb") as file:
            return file.read(4).startswith((b"PK\x03\x04", b"\x80"))
    except OSError:
        return False


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise ClassifierError if weights hold NaN or infinite numbers."""
    numbers = {name: w.float() if w.element_size() == 1 else w for name, w in weights.items()}
    bad = [name for name, tensor in numbers.items() if not tensor.isfinite().all()]
    if bad:
        raise ClassifierError(
            f"weights {path}: {len(bad)} tensors hold NaN or infinite numbers, such as {bad[0]}; "
            "train the network again, or copy the file again"
        )


def _find_problems(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    """Return one clause per kind of difference between two sets of weights."""
    missing = [k for k in expected if k not in stored and not k.endswith(_COUNTERS)]
    extra = [key for key in stored if key not in expected]
    misshaped = [
        f"{key} {tuple(stored[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in stored
        if key in expected and stored[key].shape != expected[key].shape
    ]
    mistyped = [
        f"{key} {str(stored[key].dtype).removeprefix('torch.')} instead of floats"
        for key in stored
        if key in expected
        and expected[key].is_floating_point()
        and not stored[key].is_floating_point()
    ]
    kinds = (
        ("missing", missing),
        ("unexpected", extra),
        ("of another shape", misshaped),
        ("of another type", mistyped),
    )
    return [f"{len(keys)} {kind}: {_list_first(keys)}" for kind, keys in kinds if keys]


def _list_first(words: Sequence[str], limit: int = 3) -> str:
    return ", ".join(words[:limit]) + (", …" if len(words) > limit else "")
