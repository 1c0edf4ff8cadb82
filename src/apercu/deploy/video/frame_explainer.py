"""Which class a video shows: one that does not change its mind from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from apercu.deploy.export.graphs import TOP
from apercu.deploy.inference import InferenceEngine
from apercu.deploy.video.frames import prepare_image
from apercu.deploy.video.motion import (
    FlickerMeter,
    Grey,
    MapSmoother,
    Motion,
    estimate_motion,
    shrink_to_grey,
)
from apercu.deploy.video.source import VideoPicture

CLASS_HALF_LIFE = 0.4
"""Seconds after which a frame counts half in the mean probabilities."""
SWITCH_RATIO = 1.25
"""How many times as probable another class must be, in the mean, to be shown instead."""


@final
class StableClass:
    """The class that is shown, and mean probabilities over the last moments.

    Args:
        fixed: a class that is shown always; None shows the one seen most.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.fixed = fixed
        self._current = fixed
        self._mean: NDArray[np.float64] | None = None

    @property
    def next_target(self) -> int:
        """The class to explain in the next frame; `TOP` while none is shown."""
        return TOP if self._current is None else self._current

    def reset(self) -> None:
        """Another scene begins."""
        self._current, self._mean = self.fixed, None

    def update(self, probabilities: NDArray[np.float32], seconds: float) -> tuple[int, float]:
        """Takes the answer for a frame: the class that was explained, and its mean probability.

        Args:
            probabilities: of the frame.
            seconds: since the frame before.
        """
        if self._mean is None:
            self._mean = probabilities.astype(np.float64)
        else:
            kept = 0.5 ** (seconds / CLASS_HALF_LIFE)
            self._mean = kept * self._mean + (1 - kept) * probabilities
        best = int(self._mean.argmax())
        explained = best if self._current is None else self._current
        leads = self._mean[best] > SWITCH_RATIO * self._mean[explained]
        if self.fixed is None:
            self._current = best if leads else explained
        return explained, float(self._mean[explained])


@dataclass(frozen=True, eq=False)
class OverlayContent:
    """What is drawn over a frame.

    Attributes:
        heat: a map in 256 steps, height × width.
        title: name of the class.
        probability: of the class, as the bar shows it.
    """

    heat: NDArray[np.uint8]
    class_name: str
    probability: float


@final
class FrameExplainer:
    """Explains one frame after the other.

    Args:
        engine: makes the maps.
        steady: chooses the class.
        smoothing: of the maps.
    """

    def __init__(
        self, engine: InferenceEngine, stable_class: StableClass, smoother: MapSmoother
    ) -> None:
        self.engine, self.steady, self.smoothing = engine, stable_class, smoother
        self.meter = FlickerMeter()
        self.explained = 0
        self._grey: Grey | None = None
        self._class: int | None = None
        self._seconds = 0.0

    def __call__(self, frame: VideoPicture) -> OverlayContent:
        since = self._estimate_motion(frame)
        if since is None:
            self.steady.reset()
        passed, self._seconds = frame.seconds - self._seconds, frame.seconds
        spec = self.engine.input
        image = prepare_image(frame.picture, spec.size, spec.channels)
        answers = self.engine(torch.from_numpy(image)[None], self.steady.next_target)
        raw = answers.maps[0].numpy()
        index, probability = self.steady.update(answers.probabilities[0].numpy(), passed)
        if index != self._class:  # the map of another class is no earlier state of this one
            since, self._class = None, index
        map = self.smoothing(raw, since, passed)
        self.meter.add(raw, map, since)
        self.explained += 1
        heat = (map * 255 + 0.5).clip(0, 255).astype(np.uint8)
        return OverlayContent(heat, self.engine.names.names[index], probability)

    def _estimate_motion(self, frame: VideoPicture) -> Motion | None:
        """Since the frame before; None where there is none, or a scene begins."""
        before, self._grey = self._grey, shrink_to_grey(frame.picture)
        if before is None:
            return None
        found = estimate_motion(before, self._grey)
        return None if found.is_scene_cut else found
