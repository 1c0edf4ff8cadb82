"""What explains a frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from apercu.classifiers import ClassNames
from apercu.export.graphs import TOP

Values: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answer:
    """What is said about a frame.

    Attributes:
        map: mask of one class, height × width, in [0, 1].
        probabilities: of all classes.
    """

    map: Values
    probabilities: Values


class Engine(ABC):
    """A mask explainer that also predicts.

    Attributes:
        names: of the classes.
        channels: of its images.
        size: height and width of its images and maps.
    """

    names: ClassNames
    channels: int
    size: tuple[int, int]

    @abstractmethod
    def __call__(self, image: Values, target: int = TOP) -> Answer:
        """The answer for one image, channels × height × width in [0, 1].

        Args:
            image: at the engine's size.
            target: index of the class to look for; `TOP` is the one seen most.
        """
