"""Identity of a classifier: the same weights and preprocessing give the same fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apercu.filters import parse_filter
from apercu.filters.base import format_cache_key

if TYPE_CHECKING:
    from apercu.classifiers.network import Network

_OPTIONAL_KEYS = ("bands", "stretch")
"""Keys of the input that are left out where they have no value, as in older fingerprints."""


def digest_function(function: object, source: str, options: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the source of a function, and of its attribute `fingerprint`.

    The attribute is a text that changes with the weights. A function without it is identified by
    its source and options alone.
    """
    text = str(getattr(function, "fingerprint", ""))
    description = json.dumps([source, options, text], sort_keys=True, default=str)
    return hashlib.sha256(description.encode()).hexdigest()


def compute_fingerprint(network: Network) -> str:
    """Return the SHA-256 of a network's digest, its preprocessing, its output and its filter.

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
    if network.filter is not None:
        parts.append({"filter": format_cache_key(parse_filter(network.filter))})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
