"""What every removal of evidence shares: a replacement image, mixed in where the mask is low."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Generator

from apercu.types import Images, Maps


class Removal(ABC):
    """Takes evidence away by showing another image where the mask is 0."""

    @abstractmethod
    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        """What stands where evidence was removed; a fresh draw per call when it is random.

        Args:
            images: the images whose evidence is removed.
            generator: source of the randomness, on the CPU; deterministic removals ignore it.
        """

    def __call__(self, images: Images, masks: Maps, generator: Generator | None = None) -> Images:
        """`images · masks + replacement · (1 − masks)`; gradients reach the masks only.

        The images and their replacement are detached, as in Dabkowski & Gal's code.
        """
        keep = masks.unsqueeze(1)
        other = self.make_replacement(images, generator).detach()
        return images.detach() * keep + other * (1 - keep)
