"""Measure explainers on the same images: rows, costs, and the score of each image."""

from __future__ import annotations

from apercu.evaluation.compare import compare
from apercu.evaluation.comparison import load_finished, run_comparison
from apercu.evaluation.protocols import PROTOCOLS, Protocol
from apercu.evaluation.results import (
    ComparisonKey,
    ComparisonResults,
    Cost,
    Invocation,
    MetricRow,
)
from apercu.evaluation.settings import CompareSettings

__all__ = [
    "PROTOCOLS",
    "CompareSettings",
    "ComparisonKey",
    "ComparisonResults",
    "Cost",
    "Invocation",
    "MetricRow",
    "Protocol",
    "compare",
    "load_finished",
    "run_comparison",
]
