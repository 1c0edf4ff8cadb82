"""Results for people: a page, a Markdown table, a CSV file."""

from __future__ import annotations

from apercu.evaluation.report.page import (
    PICTURE_SIDE,
    GalleryImage,
    embed_image,
    render_style,
    render_template,
    write_report,
)
from apercu.evaluation.report.tables import write_tables

__all__ = [
    "PICTURE_SIDE",
    "GalleryImage",
    "embed_image",
    "render_style",
    "render_template",
    "write_report",
    "write_tables",
]
