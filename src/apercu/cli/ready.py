"""`apercu ready`: the ready-made explainers, and whether they can be used here."""

from __future__ import annotations

from apercu.cli.options import DebugOption
from apercu.cli.terminal import say


def ready(debug: DebugOption = False) -> None:
    """List the ready-made explainers of this package, for `apercu explain`, `serve` and the others.

    Example: apercu ready
    """
    from apercu.explainers.ready import list_ready

    for explainer in list_ready():
        state = "installed" if explainer.is_installed else "pip install 'apercu[ready]'"
        say(f"{explainer.name}: {explainer.title} ({state}); card: {explainer.run / 'card.md'}")
