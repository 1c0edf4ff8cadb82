"""Heads that learn from few labels: one file each."""

from __future__ import annotations

from apercu.pretraining.heads.base import ClassPredictor, FeatureHead, LabelledFeatures, Learner
from apercu.pretraining.heads.dense import Dense
from apercu.pretraining.heads.fine_tuning import FineTuning
from apercu.pretraining.heads.linear import Linear
from apercu.pretraining.heads.nearest import Nearest

HEADS: dict[str, type[Learner]] = {
    "linear": Linear,
    "dense": Dense,
    "nearest": Nearest,
    "fine_tuning": FineTuning,
}
"""Head classes by the names that people type."""

__all__ = [
    "HEADS",
    "Dense",
    "FineTuning",
    "FeatureHead",
    "LabelledFeatures",
    "Learner",
    "Linear",
    "Nearest",
    "ClassPredictor",
]
