"""Maps of whole data sets: sharded tables or arrays with a manifest, resumable to the batch."""

from apercu.batch.flow import Order, Outcome, explain_all
from apercu.batch.settings import FORMATS, MAPS, BatchSettings, Crew
from apercu.batch.who import Who

__all__ = ["FORMATS", "MAPS", "BatchSettings", "Crew", "Order", "Outcome", "Who", "explain_all"]
