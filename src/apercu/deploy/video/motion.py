"""How the whole picture moved from one frame to the next, and whether it is another scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

from apercu.deploy.video.frames import view_plane
from apercu.errors import ConfigError

SIDE = 128
"""Pixels of the square that motion is sought in."""
CUT = 0.15
"""Mean change of brightness, motion taken out, from which a frame begins another scene."""

Grey: TypeAlias = NDArray[np.float32]
_WINDOW = np.outer(np.hanning(SIDE), np.hanning(SIDE)).astype(np.float32)


@dataclass(frozen=True)
class Motion:
    """Of the whole picture.

    Attributes:
        down: by which share of its height it moved.
        right: by which share of its width.
        change: mean absolute change of brightness, in [0, 1], that the motion leaves.
    """

    down: float = 0.0
    right: float = 0.0
    change: float = 0.0

    @property
    def is_scene_cut(self) -> bool:
        """Whether another scene has begun."""
        return self.change > CUT


def shrink_to_grey(picture: VideoFrame) -> Grey:
    """The brightness of a picture as a small square, in [0, 1]."""
    small = picture.reformat(width=SIDE, height=SIDE, format="gray", interpolation="BILINEAR")
    return view_plane(small, 0).astype(np.float32) / np.float32(255)


def estimate_motion(before: Grey, now: Grey) -> Motion:
    """How far the picture moved, by phase correlation; not at all where that explains it better."""
    still = Motion(change=float(np.abs(now - before).mean()))
    down, right = _find_peak(before, now)
    left = float(np.abs(now - shift_values(before, down * SIDE, right * SIDE)).mean())
    return Motion(down, right, left) if left < still.change else still


def shift_values(values: Grey, down: float, right: float) -> Grey:
    """Values moved by so many rows and columns, interpolated; what comes in repeats the edge."""
    return _shift_along(_shift_along(values, down, 0), right, 1)


def _shift_along(values: Grey, by: float, axis: int) -> Grey:
    count = values.shape[axis]
    places = np.clip(np.arange(count) - by, 0, count - 1)
    low = np.minimum(places.astype(np.intp), count - 2)
    part = (places - low).astype(np.float32)
    part = part[:, None] if axis == 0 else part[None]
    return np.take(values, low, axis) * (1 - part) + np.take(values, low + 1, axis) * part


def _find_peak(before: Grey, now: Grey) -> tuple[float, float]:
    """Where the phase correlation is highest, as shares, to a fraction of a pixel."""
    spectra = [np.fft.rfft2((one - one.mean()) * _WINDOW) for one in (before, now)]
    cross = spectra[1] * np.conj(spectra[0])
    phases = cross / np.maximum(np.abs(cross), 1e-9)
    found = np.fft.irfft2(phases, s=(SIDE, SIDE)).astype(np.float32)
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    return _refine_peak(found[:, column], int(row)), _refine_peak(found[row], int(column))


def _refine_peak(line: NDArray[np.float32], place: int) -> float:
    """The top of a parabola through the highest value and its neighbours, as a signed share."""
    low, top, high = line[place - 1], line[place], line[(place + 1) % SIDE]
    bend = low - 2 * top + high
    exact = place + (0.5 * (low - high) / bend if bend < 0 else 0.0)
    return float((exact - SIDE if exact > SIDE / 2 else exact) / SIDE)


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
