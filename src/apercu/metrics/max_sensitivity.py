"""Maximal sensitivity (Yeh et al. 2019): how much does a map change under small noise?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from apercu.classifiers import Classifier
from apercu.classifiers.names import Target, choose_targets
from apercu.errors import ConfigError
from apercu.images import value_range
from apercu.metrics.record import Metric
from apercu.statistics import divide_or
from apercu.types import Images, Maps, Scores, Targets


@dataclass(frozen=True)
class SensitivityNoise:
    """Uniform noise that is drawn several times.

    Attributes:
        radius: the largest change of a pixel, as a fraction of the range of values.
        draws: the number of noisy copies of each image.
        seed: the seed of the noise.

    Raises:
        ConfigError: the radius is not positive, or draws is below 1.
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
    targets: Target,
    noise: SensitivityNoise | None = None,
    *,
    before: Maps | None = None,
) -> Scores:
    """Return the largest ‖map of noisy image − map‖ / ‖map‖ over the draws; lower is better.

    The noise is the same for every image, in units of its range: [0, 1], or wider where it holds
    raw counts. Noisy images stay within that range. A map of zeros scores 0 if it stays zero,
    else 1.

    Args:
        explainer: a function of classifier, images and targets that gives maps.
        classifier: the classifier that is explained.
        images: images, `batch × channels × height × width`.
        targets: one class for all images or one per image; None for the predicted classes.
        noise: the noise; the default noise when None.
        before: the maps of the images, where they are known already.

    Returns:
        One score per image.
    """
    noise, targets = noise or SensitivityNoise(), choose_targets(classifier, images, targets)
    generator = torch.Generator().manual_seed(noise.seed)
    if before is None:
        before = explainer(classifier, images, targets).detach()
    low, high = value_range(images)
    largest = torch.zeros_like(before[:, 0, 0])
    for _ in range(noise.draws):
        change = noise.radius * (2 * torch.rand(images.shape[1:], generator=generator) - 1)
        noisy = (images + (high - low) * change.to(images)).clamp(low, high)
        difference = explainer(classifier, noisy, targets).detach() - before
        largest = largest.maximum(difference.flatten(1).norm(dim=1))
    size = before.flatten(1).norm(dim=1)
    return divide_or(largest, size, otherwise=(largest > 0).to(largest))


def _score_with_seed(
    explainer: Callable[[Classifier, Images, Targets], Maps],
    classifier: Classifier,
    images: Images,
    targets: Targets,
    maps: Maps,
    seed: int,
) -> Scores:
    noise = SensitivityNoise(seed=seed)
    return max_sensitivity(explainer, classifier, images, targets, noise, before=maps)


MAX_SENSITIVITY = Metric(
    name="max_sensitivity",
    function=_score_with_seed,
    takes=("explain_again", "classifier", "images", "targets", "maps", "seed"),
    better="lower",
    title="Sensitivity",
    phrase="sensitivity",
    meaning="largest change of the map under small noise, as a fraction of the map",
)
