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
from apercu.robustness.filters.pixel_ops import from_bytes, to_bytes
from apercu.robustness.filters.soft_jpeg import compress_softly
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

    def apply(self, images: Images) -> Images:
        pixels = to_bytes(images).cpu()
        return from_bytes(torch.stack([self._compress_image(one) for one in pixels]), images)

    def apply_surrogate(self, images: Images) -> Images:
        return compress_softly(images, self.quality)

    def _compress_image(self, pixels: Tensor) -> Tensor:
        """One image of bytes, channels first."""
        if len(pixels) == 3:
            opened = self._compress_picture(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
            return opened.permute(2, 0, 1)
        return torch.stack(
            [self._compress_picture(Image.fromarray(plane.numpy())) for plane in pixels]
        )

    def _compress_picture(self, picture: Image.Image) -> Tensor:
        file = BytesIO()
        picture.save(file, "JPEG", quality=self.quality)
        with Image.open(file) as opened:
            return torch.from_numpy(np.array(opened))
