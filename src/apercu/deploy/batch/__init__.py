"""Explanations of whole data sets: sharded tables or arrays with a manifest, resumable."""

from __future__ import annotations

from apercu.deploy.batch.explain_dataset import BatchSummary, explain_dataset, run_batch
from apercu.deploy.batch.request import BatchRequest, ExplainerRef
from apercu.deploy.batch.settings import FORMATS, MAPS, BatchSettings, Workers

__all__ = [
    "FORMATS",
    "MAPS",
    "BatchRequest",
    "BatchSettings",
    "BatchSummary",
    "ExplainerRef",
    "Workers",
    "explain_dataset",
    "run_batch",
]
