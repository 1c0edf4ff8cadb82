"""The distance from the mean, in units of how honest images vary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from apercu.robustness.detection.detectors.base import (
    AnomalyScore,
    Detector,
    Features,
    make_missing_error,
)
from apercu.types import Scores


@final
@dataclass(frozen=True)
class Mahalanobis(Detector):
    """Squared Mahalanobis distance under a Gaussian (Rippel et al. 2020).

    The covariance is shrunk after Ledoit and Wolf, so there may be more features than images.
    """

    def fit_standardised(self, usual: Features) -> AnomalyScore:
        try:
            from sklearn.covariance import LedoitWolf
        except ImportError as error:
            raise make_missing_error(error) from error
        found = LedoitWolf().fit(usual.double().numpy())
        centre = torch.from_numpy(found.location_)
        precision = torch.from_numpy(found.precision_)

        def strangeness(features: Features) -> Scores:
            away = features.double() - centre
            return torch.einsum("ij,jk,ik->i", away, precision, away).float()

        return strangeness
