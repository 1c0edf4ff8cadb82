"""Motion of the whole picture, and maps that are smoothed and compared along with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

from apercu.deploy.video.frames import view_plane
from apercu.errors import ConfigError

MOTION_SIDE = 128
"""Side of the square in which motion is estimated, in pixels."""
SCENE_CUT_CHANGE = 0.15
"""Mean change of brightness, apart from motion, above which a frame begins another scene."""

Grey: TypeAlias = NDArray[np.float32]
"""The brightness of a picture in [0, 1], `rows × columns`."""
MapValues: TypeAlias = NDArray[np.float32]
"""A map in [0, 1], `height × width`."""
_WINDOW = np.outer(np.hanning(MOTION_SIDE), np.hanning(MOTION_SIDE)).astype(np.float32)


@dataclass(frozen=True)
class Motion:
    """The motion of the whole picture from one frame to the next.

    Attributes:
        down: the motion down, as a fraction of the height.
        right: the motion to the right, as a fraction of the width.
        change: the mean absolute change of brightness, in [0, 1], that the motion leaves.
    """

    down: float = 0.0
    right: float = 0.0
    change: float = 0.0

    @property
    def is_scene_cut(self) -> bool:
        """Whether another scene has begun."""
        return self.change > SCENE_CUT_CHANGE


def shrink_to_grey(picture: VideoFrame) -> Grey:
    """Return the brightness of a picture as a small square, in [0, 1]."""
    small = picture.reformat(
        width=MOTION_SIDE, height=MOTION_SIDE, format="gray", interpolation="BILINEAR"
    )
    return view_plane(small, 0).astype(np.float32) / np.float32(255)


def estimate_motion(previous: Grey, current: Grey) -> Motion:
    """Estimate the motion by phase correlation; it is 0 where that explains the change better."""
    still = Motion(change=float(np.abs(current - previous).mean()))
    down, right = _find_peak(previous, current)
    moved = shift_values(previous, down * MOTION_SIDE, right * MOTION_SIDE)
    remaining = float(np.abs(current - moved).mean())
    return Motion(down, right, remaining) if remaining < still.change else still


def shift_values(values: Grey, down: float, right: float) -> Grey:
    """Move values down and right by pixels, with interpolation; the edges are repeated."""
    return _shift_along(_shift_along(values, down, 0), right, 1)


def _shift_along(values: Grey, by: float, axis: int) -> Grey:
    count = values.shape[axis]
    positions = np.clip(np.arange(count) - by, 0, count - 1)
    low = np.minimum(positions.astype(np.intp), count - 2)
    weight = (positions - low).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight[None]
    return np.take(values, low, axis) * (1 - weight) + np.take(values, low + 1, axis) * weight


def _find_peak(previous: Grey, current: Grey) -> tuple[float, float]:
    """Return the peak of the phase correlation as fractions of the sides, to parts of a pixel."""
    spectra = [np.fft.rfft2((grey - grey.mean()) * _WINDOW) for grey in (previous, current)]
    cross = spectra[1] * np.conj(spectra[0])
    phases = cross / np.maximum(np.abs(cross), 1e-9)
    correlation = np.fft.irfft2(phases, s=(MOTION_SIDE, MOTION_SIDE)).astype(np.float32)
    row, column = map(int, np.unravel_index(int(correlation.argmax()), correlation.shape))
    return _refine_peak(correlation[:, column], row), _refine_peak(correlation[row], column)


def _refine_peak(values: NDArray[np.float32], index: int) -> float:
    """Return the top of a parabola through the peak and its neighbours, as a signed fraction."""
    low, top, high = values[index - 1], values[index], values[(index + 1) % MOTION_SIDE]
    bend = low - 2 * top + high
    position = index + (0.5 * (low - high) / bend if bend < 0 else 0.0)
    if position > MOTION_SIDE / 2:  # the second half of the correlation is motion back
        position -= MOTION_SIDE
    return float(position / MOTION_SIDE)


@final
class MapSmoother:
    """A running mean of maps that moves along with the picture.

    Args:
        half_life: the seconds after which a map counts half; 0 leaves the maps as they are.

    Raises:
        ConfigError: the half-life is negative or not a number.
    """

    def __init__(self, half_life: float) -> None:
        if not 0 <= half_life < float("inf"):
            raise ConfigError(f"smoothing: expected seconds, 0 or more, got {half_life}")
        self.half_life = half_life
        self._mean: MapValues | None = None

    def __call__(self, map: MapValues, motion: Motion | None, seconds: float) -> MapValues:
        """Add the map of a frame, and return the mean.

        Args:
            map: the map of the frame, `height × width`.
            motion: the motion since the map before; None starts a new mean.
            seconds: the time since the map before.

        Returns:
            The mean, `height × width`.
        """
        if self.half_life and self._mean is not None and motion is not None:
            weight = np.float32(0.5 ** (seconds / self.half_life))
            map = weight * move_map(self._mean, motion) + (1 - weight) * map
        self._mean = map
        return map


def move_map(map: MapValues, motion: Motion) -> MapValues:
    """Move a map as the picture has moved."""
    if not (motion.down or motion.right):
        return map
    height, width = map.shape
    return shift_values(map, motion.down * height, motion.right * width)


def compute_flicker(previous: MapValues, current: MapValues, motion: Motion) -> float:
    """Return the mean absolute change of a map that the motion does not explain.

    Args:
        previous: the map of the frame explained before, `height × width`.
        current: the map of this frame, `height × width`.
        motion: the motion between both frames.

    Returns:
        The mean absolute change, in [0, 1].
    """
    return compute_change(move_map(previous, motion), current)


def compute_change(first: MapValues, second: MapValues) -> float:
    """Return the mean absolute difference of two maps."""
    return float(np.abs(first - second).mean())


@dataclass(frozen=True)
class Flicker:
    """The flicker of the maps of a video, before and after smoothing.

    Attributes:
        raw: the mean flicker of the maps as they are computed.
        smoothed: the mean flicker of the maps that are shown.
        lag: the mean absolute difference of both maps of a frame.
        pairs: the number of successive maps that were compared, each of one scene and class.
    """

    raw: float
    smoothed: float
    lag: float
    pairs: int


@final
class FlickerMeter:
    """Adds up the flicker of a video; only the last maps are kept."""

    def __init__(self) -> None:
        self._previous: tuple[MapValues, MapValues] | None = None
        self._raw = self._smoothed = self._lag = 0.0
        self._pairs = self._maps = 0

    def add(self, raw: MapValues, smoothed: MapValues, motion: Motion | None) -> None:
        """Add the maps of a frame; without a motion they are not compared with those before."""
        if self._previous is not None and motion is not None:
            self._raw += compute_flicker(self._previous[0], raw, motion)
            self._smoothed += compute_flicker(self._previous[1], smoothed, motion)
            self._pairs += 1
        self._previous = raw, smoothed
        self._lag += compute_change(raw, smoothed)
        self._maps += 1

    @property
    def summary(self) -> Flicker | None:
        """The flicker so far; None if no two maps were compared."""
        if not self._pairs:
            return None
        raw, smoothed = self._raw / self._pairs, self._smoothed / self._pairs
        return Flicker(raw, smoothed, self._lag / self._maps, self._pairs)
