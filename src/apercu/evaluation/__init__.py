"""Methods × metrics → rows, costs, and the score of each image."""

from __future__ import annotations

from apercu.evaluation.comparison import load_finished, run_comparison
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
    "run_comparison",
    "load_finished",
]
