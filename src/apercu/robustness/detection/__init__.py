"""Detection of attacked images by the features of an explainer, or of the classifier."""

from __future__ import annotations

from apercu.robustness.detection.benchmark import DetectionBenchmark
from apercu.robustness.detection.detectors import Autoencoder, Detector, Mahalanobis, OneClassSvm
from apercu.robustness.detection.features import (
    DeepFeatures,
    FeatureExtractor,
    MapFeatures,
    MethodMapFeatures,
    StabilityFeatures,
)

__all__ = [
    "Autoencoder",
    "DeepFeatures",
    "DetectionBenchmark",
    "Detector",
    "FeatureExtractor",
    "Mahalanobis",
    "MapFeatures",
    "MethodMapFeatures",
    "OneClassSvm",
    "StabilityFeatures",
]
