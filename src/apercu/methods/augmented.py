"""A wrapper: the mean map over rotated, scaled, shifted and mirrored copies of the image."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods.base import MapExplainer, Wrapper
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class Augmented(Wrapper):
    """The mean map over random copies of the image; the first copy is the image itself.

    Each map is moved back before the mean is taken. The mean of a pixel is taken over the copies
    that contain it, so that the borders do not fade. Beyond its border a copy shows the image
    reflected. All images receive the same transforms.

    Attributes:
        method: the explainer of each copy.
        copies: the number of copies, with the image itself.
        seed: the seed of the transforms.
        degrees: the largest rotation to either side.
        zoom: the largest factor by which a copy is enlarged or reduced.
        shift: the largest shift, as a fraction of each side.

    Raises:
        ConfigError: a number is out of range.
    """

    method: MapExplainer
    copies: int = 8
    seed: int = 0
    degrees: float = 15.0
    zoom: float = 1.2
    shift: float = 0.1

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ConfigError(f"augmented: expected copies of at least 1, got {self.copies}")
        if not (self.degrees >= 0 and self.zoom >= 1 and 0 <= self.shift < 1):
            raise ConfigError(
                "augmented: expected degrees >= 0, zoom >= 1 and 0 <= shift < 1, "
                f"got {self.degrees}, {self.zoom} and {self.shift}"
            )

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        images = images.detach()
        total = self.method(classifier, images, targets)
        counts = torch.ones_like(total)
        for transform in self._draw_transforms((images.shape[2], images.shape[3])):
            copy = _warp(images, transform, "reflection")
            inverse = torch.linalg.inv(transform)
            maps = self.method(classifier, copy, targets)
            total = total + _warp(maps[:, None], inverse, "zeros")[:, 0]
            counts = counts + _warp(torch.ones_like(maps)[:, None], inverse, "zeros")[:, 0]
        return total / counts

    def _draw_transforms(self, size: tuple[int, int]) -> Float[Tensor, "transforms 3 3"]:
        """Return the transforms of all copies but the first.

        Each maps positions in the copy to positions in the image; half a side has length 1.
        """
        generator = torch.Generator().manual_seed(self.seed)
        draws = torch.rand(self.copies - 1, 5, generator=generator, dtype=torch.float64) * 2 - 1
        rotation, growth, right, down, mirror = draws.T
        angle = torch.deg2rad(rotation * self.degrees)
        scale = torch.exp(-growth * log(self.zoom))
        cos, sin = scale * angle.cos(), scale * angle.sin()
        flip = torch.where(mirror < 0, -1.0, 1.0).to(cos)
        aspect = size[0] / size[1]
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rows = (
            torch.stack((flip * cos, -sin * aspect, 2 * self.shift * right), dim=1),
            torch.stack((flip * sin / aspect, cos, 2 * self.shift * down), dim=1),
            torch.stack((zero, zero, one), dim=1),
        )
        return torch.stack(rows, dim=1)


def _warp(images: Images, transform: Float[Tensor, "3 3"], padding: str) -> Images:
    """Return the images sampled where the transform maps each position, bilinear."""
    grid = F.affine_grid(
        transform[None, :2].to(images).expand(len(images), -1, -1),
        list(images.shape),
        align_corners=False,
    )
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)
