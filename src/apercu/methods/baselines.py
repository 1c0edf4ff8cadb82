"""Baselines, which every method should beat: boxes, blobs, edges and noise, and the true boxes.

`whole_box`, `centre_box` and `centre_blob` do not look at the image, `edges` does not look at the
classifier, `random` looks at neither; `true_box` knows the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from math import ceil, sqrt
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.images.reader import LUMA
from apercu.maps import fill_boxes, resize_maps
from apercu.methods.base import MapScale, Method, Requirement
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class WholeBox(Method):
    """A map that is 1 everywhere."""

    needs: ClassVar[tuple[Requirement, ...]] = ()
    map_scale: ClassVar[MapScale] = "box"

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        return images.new_ones(len(images), *images.shape[2:])


@final
@dataclass(frozen=True)
class TrueBox:
    """A reference that knows the truth. It is no `Method`, because it takes boxes, not targets.

    Boxes are in pixels of the images. An image with fewer boxes than others is filled up with empty
    ones.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("truth",)
    map_scale: ClassVar[str] = "truth"
    slow: ClassVar[bool] = False
    training_seconds: ClassVar[float] = 0.0

    @property
    def cache_key(self) -> str:
        """A text that is equal only for explainers that give the same maps."""
        return repr(self)

    def __call__(self, images: Images, truths: Float[Tensor, "batch truths 4"]) -> Maps:
        """Return maps that are 1 inside any of an image's true boxes, else 0."""
        size = (images.shape[2], images.shape[3])
        filled = fill_boxes(truths.flatten(0, 1), size).view(*truths.shape[:2], *size)
        return filled.any(dim=1).to(images)


@final
@dataclass(frozen=True)
class CentreBox(Method):
    """1 in a centred rectangle with the image's aspect, 0 elsewhere.

    The sides are rounded up to whole pixels: a box of less than half the area would miss objects
    that fill the image (IoU > 0.5 is required), and the baseline would look worse than it is.

    Attributes:
        area: the area of the rectangle, as a fraction of the image.

    Raises:
        ConfigError: the area is not in (0, 1].
    """

    needs: ClassVar[tuple[Requirement, ...]] = ()
    map_scale: ClassVar[MapScale] = "box"
    area: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.area <= 1:
            raise ConfigError(f"centre_box: expected area in (0, 1], got {self.area}")

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        height, width = images.shape[2:]
        high, wide = (ceil(length * sqrt(self.area)) for length in (height, width))
        top, left = (height - high) // 2, (width - wide) // 2
        box = torch.tensor([[left, top, left + wide, top + high]], dtype=images.dtype)
        region = fill_boxes(box, (height, width)).to(images)
        return region.repeat(len(images), 1, 1)


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


_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


@final
@dataclass(frozen=True)
class Edges(Method):
    """The gradient magnitude of the luminance, by Sobel's filter; the border is replicated.

    Three channels are read as red, green and blue; of any other number the mean is taken.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ()

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        images = images.detach()
        channels = images.shape[1]
        weights = LUMA if channels == 3 else (1 / channels,) * channels
        grey = (images * images.new_tensor(weights)[:, None, None]).sum(dim=1, keepdim=True)
        across = images.new_tensor(_SOBEL) / 8
        filters = torch.stack((across, across.T))[:, None]
        gradients = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), filters)
        return torch.linalg.vector_norm(gradients, dim=1)
