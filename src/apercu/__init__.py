"""See what an image classifier looks at, in one forward pass.

The names below are imported when they are first used, so `import apercu` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from apercu.errors import ApercuError

if TYPE_CHECKING:
    from apercu import methods as methods
    from apercu import metrics as metrics
    from apercu.classifiers import Classifier as Classifier
    from apercu.classifiers import distil as distil
    from apercu.classifiers import open_classifier as open_classifier
    from apercu.evaluation import compare as compare
    from apercu.explainers.counterpart.explainer import CounterpartExplainer as CounterpartExplainer
    from apercu.explainers.counterpart.settings import CounterpartSettings as CounterpartSettings
    from apercu.explainers.latent.explainer import LatentExplainer as LatentExplainer
    from apercu.explainers.mask.explainer import MaskExplainer as MaskExplainer
    from apercu.explainers.mask.settings import MaskSettings as MaskSettings
    from apercu.explainers.run_folder import load_explainer as load_explainer
    from apercu.explainers.train import train as train
    from apercu.images import open_images as open_images
    from apercu.images import read_picture as read_picture

__version__ = "0.1.0"

_HOMES = {
    "Classifier": "apercu.classifiers",
    "CounterpartExplainer": "apercu.explainers.counterpart.explainer",
    "CounterpartSettings": "apercu.explainers.counterpart.settings",
    "LatentExplainer": "apercu.explainers.latent.explainer",
    "MaskExplainer": "apercu.explainers.mask.explainer",
    "MaskSettings": "apercu.explainers.mask.settings",
    "compare": "apercu.evaluation",
    "distil": "apercu.classifiers",
    "open_classifier": "apercu.classifiers",
    "open_images": "apercu.images",
    "read_picture": "apercu.images",
    "load_explainer": "apercu.explainers.run_folder",
    "train": "apercu.explainers.train",
}
"""Where each public name lives."""
_MODULES = ("methods", "metrics")
"""Modules that are public names themselves."""

__all__ = ["ApercuError", "__version__", *_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"apercu.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'apercu' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
