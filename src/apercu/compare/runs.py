"""Trained explainers from run folders, ready to be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from apercu.classifiers import Classifier
from apercu.explainers.mask import MaskExplainer
from apercu.methods import Trained


def trained(explainer: MaskExplainer, classifier: Classifier) -> Trained:
    """A mask explainer among the methods.

    Raises:
        RunError: it was trained for another classifier.
    """
    explainer.passport.check_classifier(classifier)
    digest = hashlib.sha256()
    for name, weights in sorted(explainer.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return Trained(
        attribute=explainer.attribute,
        identity=f"mask {digest.hexdigest()}",
        training_seconds=explainer.facts.get("training_seconds", 0.0),
    )


def open_runs(runs: Sequence[Path], classifier: Classifier) -> dict[str, Trained]:
    """Run folders by the names of their rows: `mask`, or `mask:run=NAME` where there are several.

    Raises:
        RunError: one is no finished run, or was trained for another classifier.
    """
    found = {
        name: MaskExplainer.from_pretrained(run, device=classifier.device)
        for name, run in zip(_names(runs), runs, strict=True)
    }
    return {name: trained(explainer, classifier) for name, explainer in found.items()}


def _names(runs: Sequence[Path]) -> list[str]:
    """Folder names where they tell the runs apart, else the paths as they were given."""
    if len(runs) == 1:
        return ["mask"]
    short = [run.resolve().name for run in runs]
    distinct = len(set(short)) == len(short)
    return [f"mask:run={name if distinct else run}" for name, run in zip(short, runs, strict=True)]
