"""Gaussian blur whose strength follows the size of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from apercu.removal.base import Removal
from apercu.types import Images


@dataclass(frozen=True)
class Blur(Removal):
    """Evidence is blurred away (Dabkowski & Gal use σ = 10 on 224 pixels).

    Args:
        strength: standard deviation of the Gaussian as a share of the shorter side.
    """

    strength: float = 10 / 224

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        height, width = images.shape[-2:]
        rows, columns = (
            _build_blur_matrix(length, self.strength * min(height, width)).to(images)
            for length in (height, width)
        )
        return rows @ images @ columns.T


def _build_blur_matrix(length: int, sigma: float) -> Tensor:
    """The blur of one axis as a matrix: a Gaussian cut at 3 σ, edges reflected.

    A separable blur is then two matrix products, fast on every device and exact for any σ.
    """
    reach = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 1e-6)) ** 2)
    sources = (torch.arange(length)[:, None] + offsets) % (2 * length)
    sources = torch.minimum(sources, 2 * length - 1 - sources)
    weights = torch.zeros(length, length)
    return weights.scatter_add_(1, sources, (kernel / kernel.sum()).expand(length, -1))
