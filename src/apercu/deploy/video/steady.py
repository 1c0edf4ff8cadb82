"""Which class a video shows: one that does not change its mind from frame to frame."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from apercu.deploy.export.graphs import TOP

HALF_LIFE = 0.4
"""Seconds after which a frame counts half in the mean probabilities."""
LEAD = 1.25
"""How many times as probable another class must be, in the mean, to be shown instead."""


@final
class StableClass:
    """The class that is shown, and mean probabilities over the last moments.

    Args:
        fixed: a class that is shown always; None shows the one seen most.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.fixed = fixed
        self._shown = fixed
        self._mean: NDArray[np.float64] | None = None

    @property
    def next_target(self) -> int:
        """The class to explain in the next frame; `TOP` while none is shown."""
        return TOP if self._shown is None else self._shown

    def reset(self) -> None:
        """Another scene begins."""
        self._shown, self._mean = self.fixed, None

    def update(self, probabilities: NDArray[np.float32], seconds: float) -> tuple[int, float]:
        """Takes the answer for a frame: the class that was explained, and its mean probability.

        Args:
            probabilities: of the frame.
            seconds: since the frame before.
        """
        if self._mean is None:
            self._mean = probabilities.astype(np.float64)
        else:
            kept = 0.5 ** (seconds / HALF_LIFE)
            self._mean = kept * self._mean + (1 - kept) * probabilities
        best = int(self._mean.argmax())
        explained = best if self._shown is None else self._shown
        leads = self._mean[best] > LEAD * self._mean[explained]
        if self.fixed is None:
            self._shown = best if leads else explained
        return explained, float(self._mean[explained])
