"""The base class of detectors, which learn the features of clean images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from apercu.errors import ImagesError
from apercu.types import Scores

Features: TypeAlias = Float[Tensor, "images features"]
AnomalyScore: TypeAlias = Callable[[Features], Scores]
"""Features → one score per image; a higher score is less like the features of clean images."""

FEWEST_IMAGES = 20
"""Smallest number of clean images to fit a detector to."""
SMALLEST_DEVIATION = 1e-6
"""Standard deviation below which a feature counts as constant."""


class Detector(ABC):
    """Learns the features of clean images; prints as its own settings."""

    def fit(self, clean: Features) -> AnomalyScore:
        """Fit the detector to features of clean images.

        Every feature counts in units of its standard deviation.

        Args:
            clean: features of clean images, `images × features`.

        Returns:
            The function that scores any features.

        Raises:
            ImagesError: there are too few images.
            MissingExtraError: a package of the `robust` extra is needed and not installed.
        """
        check_enough(len(clean), FEWEST_IMAGES)
        centre, spread = clean.mean(0), clean.std(0).clamp(min=SMALLEST_DEVIATION)
        score = self.fit_standardised((clean - centre) / spread)
        return lambda features: score((features - centre) / spread)

    @abstractmethod
    def fit_standardised(self, clean: Features) -> AnomalyScore:
        """Fit the detector to standardised features of clean images; see `fit`."""


def check_enough(count: int, least: int) -> None:
    """Raise ImagesError for too few images to learn from."""
    if count < least:
        raise ImagesError(
            f"images: expected at least {least} clean images to learn from, got {count}"
        )
