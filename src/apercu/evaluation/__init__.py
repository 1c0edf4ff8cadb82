"""Methods × metrics → rows, costs, and the score of each image."""

from __future__ import annotations

from apercu.evaluation.compare import compare, finished_rows
from apercu.evaluation.measures import METRICS
from apercu.evaluation.results import Call, Cost, Results, Row, Subject
from apercu.evaluation.settings import CompareSettings

__all__ = [
    "METRICS",
    "Call",
    "CompareSettings",
    "Cost",
    "Results",
    "Row",
    "Subject",
    "compare",
    "finished_rows",
]
