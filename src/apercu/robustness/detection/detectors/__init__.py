"""What tells the strange from the usual, having seen the usual alone: one file each."""

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
"""By the name that people type; each is called with its settings."""

__all__ = ["DETECTORS", "AnomalyScore", "Autoencoder", "Detector", "Mahalanobis", "OneClassSvm"]
