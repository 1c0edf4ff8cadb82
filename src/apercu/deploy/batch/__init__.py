"""Maps of whole data sets: sharded tables or arrays with a manifest, resumable to the batch."""

from apercu.deploy.batch.flow import Order, Outcome, explain_all
from apercu.deploy.batch.settings import FORMATS, MAPS, BatchSettings, Crew
from apercu.deploy.batch.who import Who

__all__ = ["FORMATS", "MAPS", "BatchSettings", "Crew", "Order", "Outcome", "Who", "explain_all"]
