"""Methods × metrics → rows, costs, and the score of each image."""

from __future__ import annotations

from apercu.compare.flow import compare, finished_rows
from apercu.compare.measures import METRICS
from apercu.compare.results import Call, Cost, Results, Row, Subject
from apercu.compare.settings import CompareSettings

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
