"""Detectors that learn from clean images alone, and score how unusual others are."""

from __future__ import annotations

from apercu.robustness.detection.detectors.autoencoder import Autoencoder
from apercu.robustness.detection.detectors.base import AnomalyScore, Detector
from apercu.robustness.detection.detectors.mahalanobis import Mahalanobis
from apercu.robustness.detection.detectors.one_class_svm import OneClassSvm

DETECTORS: dict[str, type[Detector]] = {
    "autoencoder": Autoencoder,
    "one_class_svm": OneClassSvm,
    "mahalanobis": Mahalanobis,
}
"""Detector classes by the names that people type."""

__all__ = ["DETECTORS", "AnomalyScore", "Autoencoder", "Detector", "Mahalanobis", "OneClassSvm"]
