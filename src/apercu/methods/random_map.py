"""A random map, a baseline: every method should score better."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.maps import resize_maps
from apercu.methods.base import Method, Requirement
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class RandomMap(Method):
    """Uniform numbers in [0, 1], drawn from the image's content and the seed.

    An image has the same map in any batch.

    Attributes:
        seed: the seed of the numbers.
        grid: the number of rows and columns of a coarse grid of numbers, which is enlarged to a
            smooth map. By default every pixel has a number of its own.

    Raises:
        ConfigError: the grid is below 1.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ()
    seed: int = 0
    grid: int | None = None

    def __post_init__(self) -> None:
        if self.grid is not None and self.grid < 1:
            raise ConfigError(f"random: expected grid of at least 1, got {self.grid}")

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        size = (images.shape[2], images.shape[3])
        cells = size if self.grid is None else (self.grid, self.grid)
        draws = [
            torch.rand(cells, generator=self._make_generator(image)) for image in images.detach()
        ]
        return resize_maps(torch.stack(draws).to(images), size)

    def _make_generator(self, image: Float[Tensor, "channels rows columns"]) -> torch.Generator:
        content = blake2b(image.cpu().contiguous().numpy().tobytes(), digest_size=8)
        content.update(str(self.seed).encode())
        return torch.Generator().manual_seed(int.from_bytes(content.digest()))
