"""ROAD (Rong et al. 2022): remove pixels in a way that leaves a natural image.

Removed pixels are imputed from their neighbours, and a little noise hides the smoothness.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from apercu.classifiers.names import Target, choose_targets
from apercu.errors import ConfigError
from apercu.images import value_range
from apercu.metrics.flipping import rank_pixels, target_probability
from apercu.metrics.imputation import impute
from apercu.metrics.record import Metric
from apercu.types import Images, LogitsFn, Maps, Scores, Targets


@dataclass(frozen=True)
class RoadSettings:
    """Which fractions of the pixels are removed, and the noise on the imputed ones.

    Attributes:
        fractions: the fractions of the pixels that are removed, each in (0, 1).
        noise: the standard deviation of the noise, in units of the image's range ([0, 1], or wider
            for raw counts). Every image receives the same noise.
        seed: the seed of the noise.
        batch: the number of imputed images that the classifier receives at once.

    Raises:
        ConfigError: no fractions, or one outside (0, 1); negative noise; a batch below 1.
    """

    fractions: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    noise: float = 0.01
    seed: int = 0
    batch: int = 32

    def __post_init__(self) -> None:
        if not self.fractions or not all(0 < value < 1 for value in self.fractions):
            raise ConfigError(f"road: expected fractions in (0, 1), got {self.fractions}")
        if self.noise < 0 or self.batch < 1:
            raise ConfigError(
                "road: expected noise of at least 0 and a batch of at least 1, "
                f"got {self.noise} and {self.batch}"
            )


def road(
    classifier: LogitsFn,
    images: Images,
    targets: Target,
    maps: Maps,
    settings: RoadSettings | None = None,
) -> Scores:
    """Return half the gap between removing the least and the most relevant pixels.

    The score is (p_least − p_most) / 2 of the target's probability, averaged over all fractions. It
    lies between −0.5 and 0.5, and higher is better; a random map scores about 0. Equal values are
    taken row by row.

    Args:
        classifier: the classifier that is explained.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: the class of each image, or one for all.
        maps: maps, `batch × height × width`, of any scale.
        settings: which fractions are removed, and how; None for the defaults.

    Returns:
        One score per image.
    """
    settings = settings or RoadSettings()
    targets = choose_targets(classifier, images, targets)
    ranks, pixels = rank_pixels(maps), maps[0].numel()
    counts = torch.tensor(
        [round(fraction * pixels) for fraction in settings.fractions], device=maps.device
    )
    generator = torch.Generator().manual_seed(settings.seed)
    noise = settings.noise * torch.randn(images.shape[1:], generator=generator).to(images)
    lows, highs = value_range(images)
    removals = torch.cat((counts, -counts))  # so many of the highest, so many of the lowest
    parts = []
    with torch.no_grad():
        pairs = torch.arange(len(images) * len(removals), device=maps.device)
        for pair in torch.split(pairs, settings.batch):
            image = pair // len(removals)
            count = removals[pair % len(removals), None, None]
            most, least = ranks[image] < count, ranks[image] >= pixels + count
            removed = torch.where(count > 0, most, least)
            imputed = impute(images[image], ~removed)
            low, high = (bound[image] for bound in (lows, highs))
            noisy = (imputed + (high - low) * noise).clamp(low, high)
            imputed = torch.where(removed[:, None], noisy, imputed)
            parts.append(target_probability(classifier, imputed, targets[image]))
    most_removed, least_removed = torch.cat(parts).view(len(images), 2, -1).unbind(dim=1)
    return (least_removed - most_removed).mean(dim=1) / 2


def _score_with_seed(
    classifier: LogitsFn, images: Images, targets: Targets, maps: Maps, seed: int
) -> Scores:
    return road(classifier, images, targets, maps, RoadSettings(seed=seed))


ROAD = Metric(
    name="road",
    function=_score_with_seed,
    takes=("classifier", "images", "targets", "maps", "seed"),
    better="higher",
    title="ROAD",
    phrase="ROAD",
    meaning="half the gap in probability between filling in the weakest and strongest pixels",
)
