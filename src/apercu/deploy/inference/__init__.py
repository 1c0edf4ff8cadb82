"""Engines that explain and predict: a run in PyTorch, an export in ONNX Runtime."""

from apercu.deploy.inference.engine import ExplainedBatch, ExplainerInfo, InferenceEngine
from apercu.deploy.inference.open_engine import is_export, open_engine
from apercu.deploy.inference.torch_engine import Predictor

__all__ = [
    "ExplainedBatch",
    "ExplainerInfo",
    "InferenceEngine",
    "Predictor",
    "is_export",
    "open_engine",
]
