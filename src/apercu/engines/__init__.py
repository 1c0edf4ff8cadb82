"""Mask explainers that also predict, at work: a run in PyTorch, an export in ONNX Runtime."""

from apercu.engines.engine import About, Answers, Engine
from apercu.engines.opening import is_export, open_engine
from apercu.engines.reading import Reading

__all__ = ["About", "Answers", "Engine", "Reading", "is_export", "open_engine"]
