"""A detector by the Mahalanobis distance from the mean of clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from apercu.extras import require_extra
from apercu.robustness.detection.detectors.base import (
    AnomalyScore,
    Detector,
    Features,
)
from apercu.types import Scores


@final
@dataclass(frozen=True)
class Mahalanobis(Detector):
    """Scores the squared Mahalanobis distance under a Gaussian (Rippel et al. 2020).

    The covariance is shrunk after Ledoit and Wolf, so there may be more features than images.
    """

    def __post_init__(self) -> None:
        require_extra("robust", "mahalanobis", "sklearn")

    def fit_standardised(self, clean: Features) -> AnomalyScore:
        from sklearn.covariance import LedoitWolf

        estimate = LedoitWolf().fit(clean.double().numpy())
        centre = torch.from_numpy(estimate.location_)
        precision = torch.from_numpy(estimate.precision_)

        def score_anomaly(features: Features) -> Scores:
            difference = features.double() - centre
            return torch.einsum("ij,jk,ik->i", difference, precision, difference).float()

        return score_anomaly
