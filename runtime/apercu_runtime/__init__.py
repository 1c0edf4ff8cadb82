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
from apercu_runtime.explainer import Explainer

__version__ = "0.1.0"

__all__ = [
    "ApercuError",
    "ConfigError",
    "Explainer",
    "ImageError",
    "InputError",
    "RunError",
    "TargetError",
    "__version__",
]
