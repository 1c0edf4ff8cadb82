"""The kinds of trained explainers by name; a further kind is a folder here, and a line below."""

from __future__ import annotations

from apercu.errors import ConfigError, suggest_nearest
from apercu.explainers.counterpart.kind import COUNTERPART
from apercu.explainers.kind import ExplainerKind
from apercu.explainers.latent.kind import LATENT
from apercu.explainers.mask.kind import MASK

KINDS: dict[str, ExplainerKind] = {kind.name: kind for kind in (MASK, COUNTERPART, LATENT)}


def find_kind(name: str) -> ExplainerKind:
    """Return the kind of this name.

    Raises:
        ConfigError: there is no such kind.
    """
    if name not in KINDS:
        raise ConfigError(
            f"kind: no explainer {name!r}, expected one of {', '.join(KINDS)}"
            f"{suggest_nearest(name, KINDS)}"
        )
    return KINDS[name]
