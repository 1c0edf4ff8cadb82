"""How a video's brightness and two colour differences are made of red, green and blue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

HIGH = 720
"""Rows from which a video that does not say is taken for high definition, as players do."""


@dataclass(frozen=True)
class ColourMatrix:
    """The weights of one standard, and its numbers.

    Attributes:
        red: weight in brightness.
        blue: weight in brightness; green has the rest.
        scaler: number of the standard in libswscale.
        tag: number in a file (ITU-T H.273).
    """

    red: float
    blue: float
    scaler: int
    tag: int

    def convert_to_planes(self, rgb: NDArray[np.float64]) -> NDArray[np.float64]:
        """Colours in [0, 1], `… × 3`, as Y, Cb, Cr of limited range (16 to 235, or 240)."""
        red, green, blue = np.moveaxis(rgb, -1, 0)
        bright = self.red * red + (1 - self.red - self.blue) * green + self.blue * blue
        cold = (blue - bright) / (1 - self.blue) / 2
        warm = (red - bright) / (1 - self.red) / 2
        return np.stack((16 + 219 * bright, 128 + 224 * cold, 128 + 224 * warm), -1)


BT601 = ColourMatrix(0.299, 0.114, 5, 6)
BT709 = ColourMatrix(0.2126, 0.0722, 1, 1)
BT2020 = ColourMatrix(0.2627, 0.0593, 9, 9)
_TAGS = {1: BT709, 5: BT601, 6: BT601, 9: BT2020, 10: BT2020}


def find_matrix(frame: VideoFrame) -> ColourMatrix:
    """The standard of a decoded frame: what it says, else what players take for its height."""
    return _TAGS.get(int(frame.colorspace), BT709 if frame.height >= HIGH else BT601)
