"""Runs exported apercu explainers with ONNX Runtime alone."""

from __future__ import annotations

from apercu_runtime.errors import (
    ApercuError,
    ConfigError,
    ImageError,
    InputError,
    RunError,
    TargetError,
)
from apercu_runtime.explainer import Explainer, load_explainer
from apercu_runtime.explanation import Explanation, NamedClass

__version__ = "0.2.0"

__all__ = [
    "ApercuError",
    "ConfigError",
    "Explainer",
    "Explanation",
    "ImageError",
    "InputError",
    "NamedClass",
    "RunError",
    "TargetError",
    "__version__",
    "load_explainer",
]
