"""Explain one frame after the other, with a class that does not change from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from apercu.classifiers.names import TOP_INDEX
from apercu.classifiers.outputs import check_finite_rows
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
from apercu.errors import name_images

CLASS_HALF_LIFE = 0.4
"""Seconds after which a frame counts half in the mean probabilities."""
SWITCH_RATIO = 1.25
"""How many times as probable another class must be, in the mean, to replace the present one."""


@final
class StableClass:
    """The class that is shown, by the mean probabilities over the last moments.

    Args:
        fixed: the index of a class that is always shown; None for the class predicted most.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.fixed = fixed
        self._current = fixed
        self._mean: NDArray[np.float64] | None = None

    @property
    def next_target(self) -> int:
        """The class to explain in the next frame; `TOP_INDEX` before the first one."""
        return TOP_INDEX if self._current is None else self._current

    def reset(self) -> None:
        """Forget the frames before, since another scene begins."""
        self._current, self._mean = self.fixed, None

    def update(self, probabilities: NDArray[np.float32], seconds: float) -> tuple[int, float]:
        """Add the prediction of a frame.

        Args:
            probabilities: the probabilities of all classes in the frame.
            seconds: the time since the frame before.

        Returns:
            The index of the class that was explained, and its mean probability.
        """
        if self._mean is None:
            self._mean = probabilities.astype(np.float64)
        else:
            weight = 0.5 ** (seconds / CLASS_HALF_LIFE)
            self._mean = weight * self._mean + (1 - weight) * probabilities
        best = int(self._mean.argmax())
        explained = best if self._current is None else self._current
        replaces = self._mean[best] > SWITCH_RATIO * self._mean[explained]
        if self.fixed is None:
            self._current = best if replaces else explained
        return explained, float(self._mean[explained])


@dataclass(frozen=True, eq=False)
class OverlayContent:
    """What is drawn over a frame.

    Attributes:
        heat: a map in 256 steps, `height × width`, uint8.
        class_name: the short name of the class.
        probability: the probability of the class, as the bar shows it.
        is_estimate: whether the explainer estimates the probability, as no classifier is there.
    """

    heat: NDArray[np.uint8]
    class_name: str
    probability: float
    is_estimate: bool = False


@final
class FrameExplainer:
    """Explains one frame after the other.

    Args:
        engine: explains an image.
        stable_class: chooses the class.
        smoother: smooths the maps over time.

    Attributes:
        meter: measures the flicker of the maps.
        explained: the number of frames that were explained.
        alarms: the number of these that a guard raises an alarm for, or cannot judge.
    """

    def __init__(
        self, engine: InferenceEngine, stable_class: StableClass, smoother: MapSmoother
    ) -> None:
        self.engine, self.stable_class, self.smoother = engine, stable_class, smoother
        self.meter = FlickerMeter()
        self.explained = self.alarms = 0
        self._grey: Grey | None = None
        self._class: int | None = None
        self._seconds = 0.0

    def __call__(self, frame: VideoPicture) -> OverlayContent:
        motion = self._estimate_motion(frame)
        if motion is None:
            self.stable_class.reset()
        elapsed, self._seconds = frame.seconds - self._seconds, frame.seconds
        spec = self.engine.input
        image = prepare_image(frame.picture, spec.size, spec.channels)
        explained = self.engine(torch.from_numpy(image)[None], self.stable_class.next_target)
        with name_images([f"the frame at {frame.seconds:.2f} s"]):
            subject = f"{self.engine.info.classifier}: the explanation"
            check_finite_rows(subject, explained.probabilities, explained.maps)
        raw = explained.maps[0].numpy()
        index, probability = self.stable_class.update(explained.probabilities[0].numpy(), elapsed)
        if index != self._class:  # maps of two classes are not compared
            motion, self._class = None, index
        map = self.smoother(raw, motion, elapsed)
        self.meter.add(raw, map, motion)
        self.explained += 1
        self.alarms += sum(not trust.is_good for trust in explained.trust or ())
        heat = (map * 255 + 0.5).clip(0, 255).astype(np.uint8)
        is_estimate = self.engine.info.read_by != "classifier"
        return OverlayContent(heat, self.engine.names.short_names[index], probability, is_estimate)

    def _estimate_motion(self, frame: VideoPicture) -> Motion | None:
        """Return the motion since the frame before; None at the beginning of a scene."""
        previous, self._grey = self._grey, shrink_to_grey(frame.picture)
        if previous is None:
            return None
        motion = estimate_motion(previous, self._grey)
        return None if motion.is_scene_cut else motion
