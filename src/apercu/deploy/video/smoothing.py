"""Maps that follow each other calmly: a running mean that moves along with the picture."""

from __future__ import annotations

from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from apercu.deploy.video.motion import Motion, shift_values
from apercu.errors import ConfigError

Values: TypeAlias = NDArray[np.float32]
"""A map: height × width, in [0, 1]."""


@final
class MapSmoother:
    """A running mean of maps, in which a map counts half after so many seconds.

    Args:
        half_life: in seconds; 0 leaves the maps as they are.

    Raises:
        ConfigError: it is negative or no number.
    """

    def __init__(self, half_life: float) -> None:
        if not 0 <= half_life < float("inf"):
            raise ConfigError(f"smoothing: expected seconds, 0 or more, got {half_life}")
        self.half_life = half_life
        self._mean: Values | None = None

    def __call__(self, map: Values, since: Motion | None, seconds: float) -> Values:
        """The mean, once it holds this map.

        Args:
            map: of this frame.
            since: how the picture moved since the map before; None begins anew.
            seconds: since then.
        """
        if self.half_life and self._mean is not None and since is not None:
            kept = np.float32(0.5 ** (seconds / self.half_life))
            map = kept * move_map(self._mean, since) + (1 - kept) * map
        self._mean = map
        return map


def move_map(map: Values, since: Motion) -> Values:
    """A map moved as the picture has moved."""
    if not (since.down or since.right):
        return map
    height, width = map.shape
    return shift_values(map, since.down * height, since.right * width)
