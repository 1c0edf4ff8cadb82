"""JPEG, there and back."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from apercu.robustness.filters.base import Filter, check_whole
from apercu.robustness.filters.eight_bit import eight_bit, unit
from apercu.robustness.filters.soft_jpeg import soft_jpeg
from apercu.types import Images


@final
@dataclass(frozen=True)
class Jpeg(Filter):
    """Saved and opened by Pillow; three channels are RGB, any others are files by themselves.

    `smooth` is the same transform with a soft rounding of its coefficients.

    Args:
        quality: 1 to 95.

    Raises:
        ConfigError: a setting is out of range.
    """

    quality: int = 75

    def __post_init__(self) -> None:
        check_whole("jpeg", 1, 95, quality=self.quality)

    def filtered(self, images: Images) -> Images:
        pixels = eight_bit(images).cpu()
        return unit(torch.stack([self._reopened(one) for one in pixels]), images)

    def smooth(self, images: Images) -> Images:
        return soft_jpeg(images, self.quality)

    def _reopened(self, pixels: Tensor) -> Tensor:
        """One image of bytes, channels first."""
        if len(pixels) == 3:
            opened = self._saved(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
            return opened.permute(2, 0, 1)
        return torch.stack([self._saved(Image.fromarray(plane.numpy())) for plane in pixels])

    def _saved(self, picture: Image.Image) -> Tensor:
        file = BytesIO()
        picture.save(file, "JPEG", quality=self.quality)
        with Image.open(file) as opened:
            return torch.from_numpy(np.array(opened))
