"""How much maps flicker, and what it costs to calm them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from apercu.deploy.video.motion import Motion
from apercu.deploy.video.smoothing import Values, move_map


def compute_flicker(before: Values, now: Values, since: Motion) -> float:
    """Mean absolute change of a map that the motion of the picture does not explain.

    Args:
        before: map of the frame explained before.
        now: map of this frame.
        since: how the picture moved between them.
    """
    return compute_change(move_map(before, since), now)


def compute_change(first: Values, second: Values) -> float:
    """Mean absolute difference of two maps."""
    return float(np.abs(first - second).mean())


@dataclass(frozen=True)
class Flicker:
    """Means over a video.

    Attributes:
        raw: flicker of the maps as they come.
        shown: flicker of the maps that are shown.
        lag: mean absolute difference of the two maps of a frame.
        pairs: successive maps that were compared: of one scene and of one class.
    """

    raw: float
    shown: float
    lag: float
    pairs: int


@final
class FlickerMeter:
    """Adds up the flicker of a video; keeps the last maps only."""

    def __init__(self) -> None:
        self._last: tuple[Values, Values] | None = None
        self._raw = self._shown = self._lag = 0.0
        self._pairs = self._maps = 0

    def add(self, raw: Values, shown: Values, since: Motion | None) -> None:
        """Takes the maps of a frame; without a motion they are not compared with those before."""
        if self._last is not None and since is not None:
            self._raw += compute_flicker(self._last[0], raw, since)
            self._shown += compute_flicker(self._last[1], shown, since)
            self._pairs += 1
        self._last = raw, shown
        self._lag += compute_change(raw, shown)
        self._maps += 1

    @property
    def summarise(self) -> Flicker | None:
        """What was measured; None without a pair."""
        if not self._pairs:
            return None
        raw, shown = self._raw / self._pairs, self._shown / self._pairs
        return Flicker(raw, shown, self._lag / self._maps, self._pairs)
