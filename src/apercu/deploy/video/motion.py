"""How the whole picture moved from one frame to the next, and whether it is another scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

from apercu.deploy.video.picture import view_plane

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
