"""Methods × metrics → rows, costs, and the score of each image."""

from __future__ import annotations

from apercu.evaluation.compare import compare, load_finished
from apercu.evaluation.measures import METRICS
from apercu.evaluation.results import ComparisonKey, ComparisonResults, Cost, Invocation, MetricRow
from apercu.evaluation.settings import CompareSettings

__all__ = [
    "METRICS",
    "CompareSettings",
    "ComparisonKey",
    "ComparisonResults",
    "Cost",
    "Invocation",
    "MetricRow",
    "compare",
    "load_finished",
]
