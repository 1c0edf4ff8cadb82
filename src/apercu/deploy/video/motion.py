"""How the whole picture moved from one frame to the next, and whether it is another scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

from apercu.deploy.video.frames import view_plane
from apercu.errors import ConfigError

MOTION_SIDE = 128
"""Pixels of the square that motion is sought in."""
SCENE_CUT_CHANGE = 0.15
"""Mean change of brightness, motion taken out, from which a frame begins another scene."""

Grey: TypeAlias = NDArray[np.float32]
_WINDOW = np.outer(np.hanning(MOTION_SIDE), np.hanning(MOTION_SIDE)).astype(np.float32)


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
        return self.change > SCENE_CUT_CHANGE


def shrink_to_grey(picture: VideoFrame) -> Grey:
    """The brightness of a picture as a small square, in [0, 1]."""
    small = picture.reformat(
        width=MOTION_SIDE, height=MOTION_SIDE, format="gray", interpolation="BILINEAR"
    )
    return view_plane(small, 0).astype(np.float32) / np.float32(255)


def estimate_motion(previous: Grey, current: Grey) -> Motion:
    """How far the picture moved, by phase correlation; not at all where that explains it better."""
    still = Motion(change=float(np.abs(current - previous).mean()))
    down, right = _find_peak(previous, current)
    left = float(
        np.abs(current - shift_values(previous, down * MOTION_SIDE, right * MOTION_SIDE)).mean()
    )
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


def _find_peak(previous: Grey, current: Grey) -> tuple[float, float]:
    """Where the phase correlation is highest, as shares, to a fraction of a pixel."""
    spectra = [np.fft.rfft2((one - one.mean()) * _WINDOW) for one in (previous, current)]
    cross = spectra[1] * np.conj(spectra[0])
    phases = cross / np.maximum(np.abs(cross), 1e-9)
    found = np.fft.irfft2(phases, s=(MOTION_SIDE, MOTION_SIDE)).astype(np.float32)
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    return _refine_peak(found[:, column], int(row)), _refine_peak(found[row], int(column))


def _refine_peak(values: NDArray[np.float32], index: int) -> float:
    """The top of a parabola through the highest value and its neighbours, as a signed share."""
    low, top, high = values[index - 1], values[index], values[(index + 1) % MOTION_SIDE]
    bend = low - 2 * top + high
    exact = index + (0.5 * (low - high) / bend if bend < 0 else 0.0)
    return float((exact - MOTION_SIDE if exact > MOTION_SIDE / 2 else exact) / MOTION_SIDE)


MapValues: TypeAlias = NDArray[np.float32]
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
        self._mean: MapValues | None = None

    def __call__(self, map: MapValues, motion: Motion | None, seconds: float) -> MapValues:
        """The mean, once it holds this map.

        Args:
            map: of this frame.
            since: how the picture moved since the map before; None begins anew.
            seconds: since then.
        """
        if self.half_life and self._mean is not None and motion is not None:
            kept = np.float32(0.5 ** (seconds / self.half_life))
            map = kept * move_map(self._mean, motion) + (1 - kept) * map
        self._mean = map
        return map


def move_map(map: MapValues, motion: Motion) -> MapValues:
    """A map moved as the picture has moved."""
    if not (motion.down or motion.right):
        return map
    height, width = map.shape
    return shift_values(map, motion.down * height, motion.right * width)


def compute_flicker(previous: MapValues, current: MapValues, motion: Motion) -> float:
    """Mean absolute change of a map that the motion of the picture does not explain.

    Args:
        before: map of the frame explained before.
        now: map of this frame.
        since: how the picture moved between them.
    """
    return compute_change(move_map(previous, motion), current)


def compute_change(first: MapValues, second: MapValues) -> float:
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
    smoothed: float
    lag: float
    pairs: int


@final
class FlickerMeter:
    """Adds up the flicker of a video; keeps the last maps only."""

    def __init__(self) -> None:
        self._previous: tuple[MapValues, MapValues] | None = None
        self._raw = self._shown = self._lag = 0.0
        self._pairs = self._maps = 0

    def add(self, raw: MapValues, smoothed: MapValues, motion: Motion | None) -> None:
        """Takes the maps of a frame; without a motion they are not compared with those before."""
        if self._previous is not None and motion is not None:
            self._raw += compute_flicker(self._previous[0], raw, motion)
            self._shown += compute_flicker(self._previous[1], smoothed, motion)
            self._pairs += 1
        self._previous = raw, smoothed
        self._lag += compute_change(raw, smoothed)
        self._maps += 1

    @property
    def summary(self) -> Flicker | None:
        """What was measured; None without a pair."""
        if not self._pairs:
            return None
        raw, shown = self._raw / self._pairs, self._shown / self._pairs
        return Flicker(raw, shown, self._lag / self._maps, self._pairs)
