"""Frames → what is shown on them: a calm map, a class that stays, its probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from apercu.deploy.inference import InferenceEngine
from apercu.deploy.video.flicker import FlickerMeter
from apercu.deploy.video.motion import Grey, Motion, grey_of, motion
from apercu.deploy.video.picture import image_of
from apercu.deploy.video.reading import Frame
from apercu.deploy.video.smoothing import Smoothing
from apercu.deploy.video.steady import Steady


@dataclass(frozen=True, eq=False)
class Shown:
    """What is drawn over a frame.

    Attributes:
        heat: a map in 256 steps, height × width.
        title: name of the class.
        probability: of the class, as the bar shows it.
    """

    heat: NDArray[np.uint8]
    title: str
    probability: float


@final
class Explaining:
    """Explains one frame after the other.

    Args:
        engine: makes the maps.
        steady: chooses the class.
        smoothing: of the maps.
    """

    def __init__(self, engine: InferenceEngine, steady: Steady, smoothing: Smoothing) -> None:
        self.engine, self.steady, self.smoothing = engine, steady, smoothing
        self.meter = FlickerMeter()
        self.explained = 0
        self._grey: Grey | None = None
        self._class: int | None = None
        self._seconds = 0.0

    def __call__(self, frame: Frame) -> Shown:
        since = self._motion(frame)
        if since is None:
            self.steady.forget()
        passed, self._seconds = frame.seconds - self._seconds, frame.seconds
        spec = self.engine.input
        image = image_of(frame.picture, spec.size, spec.channels)
        answers = self.engine(torch.from_numpy(image)[None], self.steady.wanted)
        raw = answers.maps[0].numpy()
        index, probability = self.steady.see(answers.probabilities[0].numpy(), passed)
        if index != self._class:  # the map of another class is no earlier state of this one
            since, self._class = None, index
        map = self.smoothing(raw, since, passed)
        self.meter.add(raw, map, since)
        self.explained += 1
        heat = (map * 255 + 0.5).clip(0, 255).astype(np.uint8)
        return Shown(heat, self.engine.names.names[index], probability)

    def _motion(self, frame: Frame) -> Motion | None:
        """Since the frame before; None where there is none, or a scene begins."""
        before, self._grey = self._grey, grey_of(frame.picture)
        if before is None:
            return None
        found = motion(before, self._grey)
        return None if found.cut else found
