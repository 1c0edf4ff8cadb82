"""Tampered images told from honest ones by what an explainer, or the classifier, makes of them."""

from __future__ import annotations

from apercu.robustness.detection.detectors import Autoencoder, Detector, Mahalanobis, OneClassSvm
from apercu.robustness.detection.features import (
    DeepFeatures,
    Look,
    MapOfMethod,
    MapSeen,
    MapStability,
)
from apercu.robustness.detection.flow import Watch

__all__ = [
    "Autoencoder",
    "DeepFeatures",
    "Detector",
    "Look",
    "Mahalanobis",
    "MapOfMethod",
    "MapSeen",
    "MapStability",
    "OneClassSvm",
    "Watch",
]
