"""The kinds of trained explainers by name; a further kind is a folder here, and a name below."""

from __future__ import annotations

from importlib import import_module

from apercu.errors import ConfigError, suggest_nearest
from apercu.explainers.kind import ExplainerKind

KIND_NAMES = ("mask", "counterpart", "latent")
"""Folders beside this file whose module `kind` holds a record, named as the folder in capitals."""


def find_kind(name: str) -> ExplainerKind:
    """Return the record of a kind, whose folder is imported when it is first needed.

    Raises:
        ConfigError: there is no such kind.
    """
    if name not in KIND_NAMES:
        raise ConfigError(
            f"kind: no explainer {name!r}, expected one of {', '.join(KIND_NAMES)}"
            f"{suggest_nearest(name, KIND_NAMES)}"
        )
    kind: ExplainerKind = getattr(import_module(f"apercu.explainers.{name}.kind"), name.upper())
    return kind
