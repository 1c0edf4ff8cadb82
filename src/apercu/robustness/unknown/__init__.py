"""Unknown images: methods that learn from known images what a classifier knows."""

from __future__ import annotations

from apercu.robustness.unknown.base import (
    AnomalyMapScorer,
    KnownImages,
    ScorerState,
    UnknownMethod,
    UnknownScorer,
)
from apercu.robustness.unknown.boundary_samples import BoundarySamples
from apercu.robustness.unknown.conditional_generator import ConditionalGenerator
from apercu.robustness.unknown.deep_ensemble import DeepEnsemble
from apercu.robustness.unknown.discriminative_reconstruction import DiscriminativeReconstruction
from apercu.robustness.unknown.energy import Energy
from apercu.robustness.unknown.mahalanobis import LayerGaussians, LayerMahalanobis
from apercu.robustness.unknown.max_softmax import Entropy, MaxSoftmax
from apercu.robustness.unknown.measure import measure_unknown
from apercu.robustness.unknown.monte_carlo_dropout import MonteCarloDropout
from apercu.robustness.unknown.on_manifold import OnManifold
from apercu.robustness.unknown.one_class import OneClassRepresentation
from apercu.robustness.unknown.openmax import OpenMax
from apercu.robustness.unknown.registry import (
    UNKNOWN_METHODS,
    choose_unknown_methods,
    load_scorer,
    parse_unknown_methods,
    restore_scorer,
    save_scorer,
)
from apercu.robustness.unknown.stain_noise import StainNoise

__all__ = [
    "UNKNOWN_METHODS",
    "AnomalyMapScorer",
    "BoundarySamples",
    "ConditionalGenerator",
    "DeepEnsemble",
    "DiscriminativeReconstruction",
    "Energy",
    "Entropy",
    "KnownImages",
    "LayerGaussians",
    "LayerMahalanobis",
    "MaxSoftmax",
    "MonteCarloDropout",
    "OnManifold",
    "OneClassRepresentation",
    "OpenMax",
    "ScorerState",
    "StainNoise",
    "UnknownMethod",
    "UnknownScorer",
    "choose_unknown_methods",
    "load_scorer",
    "measure_unknown",
    "parse_unknown_methods",
    "restore_scorer",
    "save_scorer",
]
