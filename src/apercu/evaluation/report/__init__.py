"""Results for people: a page, a Markdown table, a CSV file."""

from __future__ import annotations

from apercu.evaluation.report.page import SIDE, Shot, data, rendered, style, write_report
from apercu.evaluation.report.tables import write_tables

__all__ = ["SIDE", "Shot", "data", "rendered", "style", "write_report", "write_tables"]
