"""Frames → what is shown on them: a calm map, a class that stays, its probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from apercu.deploy.inference import InferenceEngine
from apercu.deploy.video.flicker import FlickerMeter
from apercu.deploy.video.motion import Grey, Motion, estimate_motion, shrink_to_grey
from apercu.deploy.video.picture import prepare_image
from apercu.deploy.video.reading import VideoPicture
from apercu.deploy.video.smoothing import MapSmoother
from apercu.deploy.video.steady import StableClass


@dataclass(frozen=True, eq=False)
class OverlayContent:
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
class FrameExplainer:
    """Explains one frame after the other.

    Args:
        engine: makes the maps.
        steady: chooses the class.
        smoothing: of the maps.
    """

    def __init__(
        self, engine: InferenceEngine, steady: StableClass, smoothing: MapSmoother
    ) -> None:
        self.engine, self.steady, self.smoothing = engine, steady, smoothing
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
