"""Identity of a classifier: the same weights and preprocessing give the same fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from apercu.classifiers.network import Network

_COUNTERS = "num_batches_tracked"
"""Buffers that change no output; files with and without them hold the same network."""

FORMER_FACTORIES = {
    "apercu.classifiers.small:SmallResNet": "apercu.classifiers.small_resnet:SmallResNet",
}
"""Former names of factories of this package → their present names.

Cards with a former name open as before. Fingerprints always hold the former name, so that the same
weights have the same fingerprint as in files of older versions.
"""

_OPTIONAL_KEYS = ("bands", "stretch")
"""Keys of the input that are left out where they have no value, as in older fingerprints."""


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


def digest_function(function: object, source: str, options: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the source of a function, and of its attribute `fingerprint`.

    The attribute is a text that changes with the weights. A function without it is identified by
    its source and options alone.
    """
    text = str(getattr(function, "fingerprint", ""))
    description = json.dumps([source, options, text], sort_keys=True, default=str)
    return hashlib.sha256(description.encode()).hexdigest()


def compute_fingerprint(network: Network) -> str:
    """Return the SHA-256 of a network's digest with its preprocessing and its kind of output.

    Args:
        network: the network, after `resolve_output`.

    Returns:
        64 hexadecimal digits.
    """
    pixels = {
        k: v
        for k, v in network.input.model_dump(mode="json").items()
        if v or k not in _OPTIONAL_KEYS
    }
    parts: list[Any] = [network.digest, pixels, network.meaning.name]
    parts += [part for part in (network.output_name, network.value_range) if part is not None]
    if network.temperature is not None:
        parts.append({"temperature": network.temperature})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
