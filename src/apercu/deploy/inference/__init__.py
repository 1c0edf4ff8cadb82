"""Mask explainers that also predict, at work: a run in PyTorch, an export in ONNX Runtime."""

from apercu.deploy.inference.opening import is_export, open_engine
from apercu.deploy.inference.predictor import About, Answers, Engine
from apercu.deploy.inference.reading import Reading

__all__ = ["About", "Answers", "Engine", "Reading", "is_export", "open_engine"]
