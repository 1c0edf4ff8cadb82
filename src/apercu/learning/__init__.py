"""Training a classifier from the labels there are: `apercu train classifier`.

The names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apercu.learning.results import TrainedClassifier as TrainedClassifier
    from apercu.learning.settings import LearningSettings as LearningSettings
    from apercu.learning.train import train_classifier as train_classifier

_HOMES = {
    "LearningSettings": "settings",
    "TrainedClassifier": "results",
    "train_classifier": "train",
}
"""The module of each public name."""

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'apercu.learning' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"apercu.learning.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
