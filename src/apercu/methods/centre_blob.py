"""The centre blob, a baseline: on many films and photographs the evidence is near the centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods.base import Method, Requirement
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class CentreBlob(Method):
    """A Gaussian in the middle of the image, 1 at its peak; no method should score worse.

    Attributes:
        width: the standard deviation, as a fraction of half of each side.

    Raises:
        ConfigError: the width is not positive.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ()
    width: float = 0.4

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ConfigError(f"centre_blob: expected width above 0, got {self.width}")

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        down, across = (self._compute_profile(length) for length in images.shape[2:])
        blob = (down[:, None] * across[None, :]).to(images)
        return blob.repeat(len(images), 1, 1)

    def _compute_profile(self, length: int) -> torch.Tensor:
        """Return the Gaussian along one side of the image."""
        positions = (torch.arange(length) + 0.5) / length * 2 - 1
        return torch.exp(-((positions / self.width) ** 2) / 2)
