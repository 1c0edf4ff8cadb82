"""What every detector is: a frozen value that is fitted to features of honest images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from apercu.errors import ClassifierError, ImagesError
from apercu.types import Scores

Features: TypeAlias = Float[Tensor, "images features"]
AnomalyScore: TypeAlias = Callable[[Features], Scores]
"""How little features look like those of honest images, higher is stranger."""

FEWEST_IMAGES = 20
"""Honest images that are needed to learn from."""
SMALLEST_DEVIATION = 1e-6
"""Standard deviation below which a feature counts as constant."""


class Detector(ABC):
    """Learns what is usual; prints as its own settings."""

    @property
    def identity(self) -> str:
        return repr(self)

    def fit(self, usual: Features) -> AnomalyScore:
        """Fits to honest images; every feature counts in units of its standard deviation.

        Raises:
            ImagesError: there are too few images.
            ClassifierError: the `robust` extra is missing where it is needed.
        """
        check_enough(len(usual), FEWEST_IMAGES)
        centre, spread = usual.mean(0), usual.std(0).clamp(min=SMALLEST_DEVIATION)
        judge = self.fit_standardised((usual - centre) / spread)
        return lambda features: judge((features - centre) / spread)

    @abstractmethod
    def fit_standardised(self, usual: Features) -> AnomalyScore:
        """What `fit` does, with features that are standardised."""


def check_enough(count: int, least: int) -> None:
    """Raises ImagesError for too few images to learn from."""
    if count < least:
        raise ImagesError(
            f"images: expected at least {least} honest ones to learn from, got {count}"
        )


def make_missing_error(error: ImportError) -> ClassifierError:
    """What is said where scikit-learn is not installed."""
    return ClassifierError(f"detectors: {error.name} is missing; install apercu[robust]")
