"""Unknown images: methods that learn from honest images what a classifier knows."""

from __future__ import annotations

from apercu.robustness.unknown.base import (
    AnomalyMapScorer,
    KnownImages,
    ScorerState,
    UnknownMethod,
    UnknownScorer,
)
from apercu.robustness.unknown.energy import Energy
from apercu.robustness.unknown.mahalanobis import LayerGaussians, LayerMahalanobis
from apercu.robustness.unknown.max_softmax import Entropy, MaxSoftmax
from apercu.robustness.unknown.measure import measure_unknown
from apercu.robustness.unknown.registry import (
    UNKNOWN_METHODS,
    load_scorer,
    parse_unknown_methods,
    restore_scorer,
    save_scorer,
)

__all__ = [
    "UNKNOWN_METHODS",
    "AnomalyMapScorer",
    "Energy",
    "Entropy",
    "KnownImages",
    "LayerGaussians",
    "LayerMahalanobis",
    "MaxSoftmax",
    "ScorerState",
    "UnknownMethod",
    "UnknownScorer",
    "load_scorer",
    "measure_unknown",
    "parse_unknown_methods",
    "restore_scorer",
    "save_scorer",
]
