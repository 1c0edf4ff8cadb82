"""What every trigger is: a frozen value that marks images, and knows the class of each mark."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.types import Images, Regions, Scores, Targets

ScoreFn: TypeAlias = Callable[[Images], Scores]
"""Images → one score per image; a higher score is more like a trigger."""


class Trigger(ABC):
    """Marks images so that a poisoned classifier predicts a class of the attacker's choice.

    A trigger has one or more variants, marks that look different. It prints as its own settings.

    Attributes:
        targets: class index that each variant stands for.
    """

    targets: tuple[int, ...]

    @abstractmethod
    def stamp(self, images: Images, variants: Targets) -> Images:
        """Mark each image with one variant of the trigger.

        Args:
            images: images in [0, 1], `batch × channels × height × width`.
            variants: number of the variant for each image, from 0.

        Returns:
            The marked images in [0, 1].
        """

    def find_targets(self, variants: Targets) -> Targets:
        """Return the class index that each variant stands for."""
        return torch.tensor(self.targets, device=variants.device)[variants]

    def alternate(self, count: int) -> Targets:
        """Return the variants for so many images: each variant in turn."""
        return torch.arange(count) % len(self.targets)

    def check_classifier(self, classifier: Classifier) -> None:
        """Check that the classifier has the classes that the variants stand for.

        Raises:
            ConfigError: it has fewer classes.
        """
        last = len(classifier.classes) - 1
        if max(self.targets) > last:
            raise ConfigError(
                f"trigger: expected targets from 0 to {last}, the classes of {classifier.spec}, "
                f"got {max(self.targets)}"
            )


def check_targets(name: str, targets: tuple[int, ...], most: int) -> None:
    """Check the targets of a trigger.

    Raises:
        ConfigError: there is none, or there are too many, or one is negative.
    """
    if not 1 <= len(targets) <= most or min(targets) < 0:
        raise ConfigError(
            f"{name}: targets: expected 1 to {most} class indices such as 0/3/7, "
            f"got {'/'.join(map(str, targets)) or 'none'}"
        )


def fill_regions(
    images: Images, regions: Regions, filling: Float[Tensor, "fillings channels rows columns"]
) -> Images:
    """Replace a region of each image.

    Args:
        images: images in [0, 1], `batch × channels × height × width`.
        regions: True where pixels are replaced, `batch × height × width`.
        filling: what is put there; one image or colour for all, or one for each image.

    Returns:
        The images with other pixels inside of the regions.
    """
    return torch.where(regions[:, None], filling.to(images), images)
