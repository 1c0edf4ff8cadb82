"""A fitted detector with a threshold that 5 % of clean images exceed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from apercu.robustness.detection.detectors.base import AnomalyScore, Detector, Features

FALSE_ALARMS = 0.05
"""Fraction of clean images that may be taken for attacked ones."""
FOLDS = 3
"""Number of folds of the cross-validation that finds the threshold."""


class CalibratedDetector(NamedTuple):
    """A fitted detector, its threshold, and its scores of clean test images.

    Attributes:
        score_anomaly: scores any features.
        clean_scores: scores of the clean test images.
        threshold: score above which an image counts as attacked; 5 % of the training images exceed
            it, see `cross_validated_scores`.
    """

    score_anomaly: AnomalyScore
    clean_scores: Float[np.ndarray, " images"]
    threshold: float

    @classmethod
    def fit(
        cls, detector: Detector, training: Features, test: Float[torch.Tensor, "others features"]
    ) -> CalibratedDetector:
        """Fit a detector to features of clean training images, and score clean test images.

        Args:
            detector: detector to fit.
            training: features of clean training images, `images × features`.
            test: features of clean test images, `images × features`.

        Returns:
            The fitted detector with its threshold.
        """
        score_anomaly = detector.fit(training)
        threshold = np.quantile(cross_validated_scores(training, detector), 1 - FALSE_ALARMS)
        return cls(score_anomaly, score_anomaly(test).double().numpy(), float(threshold))


def cross_validated_scores(clean: Features, detector: Detector) -> Float[np.ndarray, " images"]:
    """Score clean images with detectors that were fitted to the other images.

    Each third of the images is scored by a detector that was fitted to the other two thirds. A
    detector that was fitted to all images finds each of them too normal, and a threshold from such
    scores gives too many false alarms.
    """
    folds = torch.arange(len(clean)) % FOLDS
    scores = np.zeros(len(clean))
    for fold in range(FOLDS):
        score_anomaly = detector.fit(clean[folds != fold])
        scores[(folds == fold).numpy()] = score_anomaly(clean[folds == fold]).double().numpy()
    return scores
