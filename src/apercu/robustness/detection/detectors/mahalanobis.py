"""The distance from the mean, in units of how honest images vary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from apercu.robustness.detection.detectors.base import Detector, Features, Strangeness, missing
from apercu.types import Scores


@final
@dataclass(frozen=True)
class Mahalanobis(Detector):
    """Squared Mahalanobis distance under a Gaussian (Rippel et al. 2020).

    The covariance is shrunk after Ledoit and Wolf, so there may be more features than images.
    """

    def fitted(self, usual: Features) -> Strangeness:
        try:
            from sklearn.covariance import LedoitWolf
        except ImportError as error:
            raise missing(error) from error
        found = LedoitWolf().fit(usual.double().numpy())
        centre = torch.from_numpy(found.location_)
        precision = torch.from_numpy(found.precision_)

        def strangeness(features: Features) -> Scores:
            away = features.double() - centre
            return torch.einsum("ij,jk,ik->i", away, precision, away).float()

        return strangeness
