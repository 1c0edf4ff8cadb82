"""Engines that explain and predict: a run in PyTorch, an export in ONNX Runtime."""

from apercu.deploy.inference.engine import ExplainedBatch, ExplainerInfo, InferenceEngine
from apercu.deploy.inference.open_engine import choose_engine_device, is_export, open_engine
from apercu.explainers.encoder import Predictor

__all__ = [
    "ExplainedBatch",
    "ExplainerInfo",
    "InferenceEngine",
    "Predictor",
    "choose_engine_device",
    "is_export",
    "open_engine",
]
