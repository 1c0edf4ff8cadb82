"""Mask explainers that also predict, at work: a run in PyTorch, an export in ONNX Runtime."""

from apercu.deploy.inference.engine import ExplainedBatch, ExplainerInfo, InferenceEngine
from apercu.deploy.inference.open_engine import is_export, open_engine
from apercu.deploy.inference.torch_engine import Predictor

__all__ = [
    "ExplainerInfo",
    "ExplainedBatch",
    "InferenceEngine",
    "Predictor",
    "is_export",
    "open_engine",
]
