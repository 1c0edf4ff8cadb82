"""A detector by the distance from a region that holds most clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from apercu.errors import ConfigError
from apercu.extras import require_extra
from apercu.robustness.detection.detectors.base import (
    AnomalyScore,
    Detector,
    Features,
)
from apercu.types import Scores


@final
@dataclass(frozen=True)
class OneClassSvm(Detector):
    """Scores with a one-class support vector machine and a Gaussian kernel (Schölkopf et al. 2001).

    Args:
        nu: fraction of the clean images that may lie outside.
    """

    nu: float = 0.1

    def __post_init__(self) -> None:
        require_extra("robust", "one_class_svm", "sklearn")
        if not 0 < self.nu < 1:
            raise ConfigError(
                f"one_class_svm: nu: expected a number between 0 and 1, got {self.nu:g}"
            )

    def fit_standardised(self, clean: Features) -> AnomalyScore:
        from sklearn.svm import OneClassSVM

        svm = OneClassSVM(nu=self.nu, gamma="scale").fit(clean.double().numpy())

        def score_anomaly(features: Features) -> Scores:
            return -torch.from_numpy(svm.score_samples(features.double().numpy())).float()

        return score_anomaly
