"""Maximal sensitivity (Yeh et al. 2019): how far does a map move when the image hardly does?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.images import value_range
from apercu.types import Images, Maps, Scores, Targets


@dataclass(frozen=True)
class SensitivityNoise:
    """Uniform noise of at most `radius`, a share of the range of values, drawn several times.

    Raises:
        ConfigError: a radius that is not positive, or no draws.
    """

    radius: float = 0.02
    draws: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.radius <= 0 or self.draws < 1:
            raise ConfigError(
                "max_sensitivity: expected a radius above 0 and at least 1 draw, "
                f"got {self.radius} and {self.draws}"
            )


def max_sensitivity(
    explainer: Callable[[Classifier, Images, Targets], Maps],
    classifier: Classifier,
    images: Images,
    targets: Targets,
    noise: SensitivityNoise | None = None,
    *,
    before: Maps | None = None,
) -> Scores:
    """The largest ‖map of noisy image − map‖ / ‖map‖ over the draws; lower is better.

    The noise is the same for every image, in units of its range: [0, 1], or wider where it holds
    raw counts; noisy images stay within. A map of zeros scores 0 where it stays so, else 1.
    `before` are the maps of the images where they are known already.
    """
    noise = noise or SensitivityNoise()
    generator = torch.Generator().manual_seed(noise.seed)
    if before is None:
        before = explainer(classifier, images, targets).detach()
    low, high = value_range(images)
    moved = torch.zeros_like(before[:, 0, 0])
    for _ in range(noise.draws):
        drawn = noise.radius * (2 * torch.rand(images.shape[1:], generator=generator) - 1)
        noisy = (images + (high - low) * drawn.to(images)).clamp(low, high)
        change = explainer(classifier, noisy, targets).detach() - before
        moved = moved.maximum(change.flatten(1).norm(dim=1))
    size = before.flatten(1).norm(dim=1)
    return torch.where(size > 0, moved / size.where(size > 0, 1), (moved > 0).to(moved))
