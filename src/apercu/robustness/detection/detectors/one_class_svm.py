"""The outside of a region that holds most honest images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from apercu.errors import ConfigError
from apercu.robustness.detection.detectors.base import (
    AnomalyScore,
    Detector,
    Features,
    make_missing_error,
)
from apercu.types import Scores


@final
@dataclass(frozen=True)
class OneClassSvm(Detector):
    """One-class support vector machine with a Gaussian kernel (Schölkopf et al. 2001).

    Args:
        nu: share of the honest images that may lie outside.
    """

    nu: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.nu < 1:
            raise ConfigError(
                f"one_class_svm: nu: expected a number between 0 and 1, got {self.nu:g}"
            )

    def fit_standardised(self, usual: Features) -> AnomalyScore:
        try:
            from sklearn.svm import OneClassSVM
        except ImportError as error:
            raise make_missing_error(error) from error
        found = OneClassSVM(nu=self.nu, gamma="scale").fit(usual.double().numpy())

        def strangeness(features: Features) -> Scores:
            return -torch.from_numpy(found.score_samples(features.double().numpy())).float()

        return strangeness
