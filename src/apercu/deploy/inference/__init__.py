"""Engines that explain and predict: a run in PyTorch, an export in ONNX Runtime."""

from apercu.deploy.inference.engine import ExplainedBatch, ExplainerInfo, InferenceEngine
from apercu.deploy.inference.open_engine import is_export, open_engine
from apercu.explainers.encoder import Predictor

__all__ = [
    "ExplainedBatch",
    "ExplainerInfo",
    "InferenceEngine",
    "Predictor",
    "is_export",
    "open_engine",
]
