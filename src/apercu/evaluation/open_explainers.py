"""Trained explainers from run folders, ready to be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apercu.classifiers import Classifier
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.run_folder import load_explainer
from apercu.methods import TrainedMethod


def wrap_trained(explainer: TrainedExplainer[Any, Any], classifier: Classifier) -> TrainedMethod:
    """A trained explainer among the methods.

    Raises:
        RunError: it was trained for another classifier.
    """
    explainer.classifier_info.check_classifier(classifier)
    digest = hashlib.sha256()
    for name, weights in sorted(explainer.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().view(-1).numpy().tobytes())
    masks = isinstance(explainer, MaskExplainer)
    return TrainedMethod(
        attribute=explainer.attribute,
        cache_key=f"{_get_kind(explainer)} {digest.hexdigest()}",
        training_seconds=explainer.facts.get("training_seconds", 0.0),
        map_scale="mask" if masks else "map",
    )


def open_runs(runs: Sequence[Path], classifier: Classifier) -> dict[str, TrainedMethod]:
    """Run folders by the names of their rows: the kind, or `mask:run=NAME` where there are several.

    Raises:
        RunError: one is no finished run, or was trained for another classifier.
    """
    opened = [load_explainer(run).to(classifier.device) for run in runs]
    names = _name_runs(runs, [_get_kind(explainer) for explainer in opened])
    return {
        name: wrap_trained(explainer, classifier)
        for name, explainer in zip(names, opened, strict=True)
    }


def _get_kind(explainer: TrainedExplainer[Any, Any]) -> str:
    return explainer.settings.explainer


def _name_runs(runs: Sequence[Path], kinds: Sequence[str]) -> list[str]:
    """Kinds where they tell the runs apart; else folder names with them, or the paths as given."""
    if len(set(kinds)) == len(kinds):
        return list(kinds)
    short = [run.resolve().name for run in runs]
    distinct = len(set(short)) == len(short)
    return [
        f"{kind}:run={name if distinct else run}"
        for kind, name, run in zip(kinds, short, runs, strict=True)
    ]
