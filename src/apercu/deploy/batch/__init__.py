"""Maps of whole data sets: sharded tables or arrays with a manifest, resumable to the batch."""

from apercu.deploy.batch.explain_dataset import BatchRequest, BatchSummary, run_batch
from apercu.deploy.batch.settings import FORMATS, MAPS, BatchSettings, ExplainerRef, Workers

__all__ = [
    "FORMATS",
    "MAPS",
    "BatchSettings",
    "Workers",
    "BatchRequest",
    "BatchSummary",
    "ExplainerRef",
    "run_batch",
]
