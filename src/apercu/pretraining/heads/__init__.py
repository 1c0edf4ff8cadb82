"""Heads that learn from few labels: one file each."""

from __future__ import annotations

from apercu.option_strings import parse_named, split_names
from apercu.pretraining.heads.base import ClassPredictor, FeatureHead, LabelledFeatures, Learner
from apercu.pretraining.heads.clusters import AssignedClusters
from apercu.pretraining.heads.fine_tuning import FineTuning
from apercu.pretraining.heads.linear import Dense, Linear
from apercu.pretraining.heads.nearest import Nearest

HEADS: dict[str, type[Learner]] = {
    "linear": Linear,
    "dense": Dense,
    "nearest": Nearest,
    "fine_tuning": FineTuning,
    "clusters": AssignedClusters,
}
"""Head classes by the names that people type."""

__all__ = [
    "HEADS",
    "AssignedClusters",
    "ClassPredictor",
    "Dense",
    "FeatureHead",
    "FineTuning",
    "LabelledFeatures",
    "Learner",
    "Linear",
    "Nearest",
    "parse_heads",
]


def parse_heads(text: str) -> dict[str, Learner]:
    """Parse the names of heads with settings, such as `linear,dense:width=20`.

    Raises:
        ConfigError: there is no such head or setting.
    """
    return {name: parse_named(name, HEADS, "heads") for name in split_names(text, "heads", HEADS)}
