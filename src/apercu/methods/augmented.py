"""A wrapper: explain turned, enlarged, moved and mirrored copies, and bring the maps back."""

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
from apercu.methods.base import Explainer, Wrapper
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class Augmented(Wrapper):
    """The mean map over random copies of the image; the first copy is the image itself.

    Each copy is turned by up to `degrees` either way, enlarged or made smaller by up to the factor
    `zoom`, moved by up to `shift` of each side, and mirrored left to right half of the time. A
    pixel's mean is taken over the copies that saw it, so that the borders do not fade. What a copy
    shows from beyond the border is the image reflected. All images receive the same motions.

    Raises:
        ConfigError: a number is out of range.
    """

    method: Explainer
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
        seen = torch.ones_like(total)
        for motion in self._draw_motions((images.shape[2], images.shape[3])):
            copy = _warp(images, motion, "reflection")
            back = torch.linalg.inv(motion)
            maps = self.method(classifier, copy, targets)
            total = total + _warp(maps[:, None], back, "zeros")[:, 0]
            seen = seen + _warp(torch.ones_like(maps)[:, None], back, "zeros")[:, 0]
        return total / seen

    def _draw_motions(self, size: tuple[int, int]) -> Float[Tensor, "motions 3 3"]:
        """From places of each copy but the first to places of the image, half a side being 1."""
        generator = torch.Generator().manual_seed(self.seed)
        draws = torch.rand(self.copies - 1, 5, generator=generator, dtype=torch.float64) * 2 - 1
        turn, grow, right, down, mirror = draws.T
        angle = torch.deg2rad(turn * self.degrees)
        scale = torch.exp(-grow * log(self.zoom))
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


def _warp(images: Images, motion: Float[Tensor, "3 3"], beyond: str) -> Images:
    """Each place takes the value of the place that the motion sends it to, bilinear."""
    grid = F.affine_grid(
        motion[None, :2].to(images).expand(len(images), -1, -1),
        list(images.shape),
        align_corners=False,
    )
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=beyond, align_corners=False)
