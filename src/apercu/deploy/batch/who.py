"""A RUN as it is typed, which every machine opens by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from apercu.deploy.inference import Engine, open_engine


@dataclass(frozen=True)
class ExplainerRef:
    """An explainer as it is named on a command line.

    Args:
        run: folder of a trained explainer, or one that `apercu export` wrote.
        classifier: SPEC of the explained classifier, where the explainer does not carry it.
    """

    run: Path
    classifier: str | None = None

    def open(self, device: str = "cpu") -> Engine:
        """Opens it, as `open_engine` does."""
        return open_engine(self.run, self.classifier, device)
