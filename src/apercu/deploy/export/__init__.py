"""Trained explainers as graphs and programs that run elsewhere, measured before they leave."""

from __future__ import annotations

from apercu.deploy.export.export_run import write_export
from apercu.deploy.export.manifest import MANIFEST, Manifest, read_manifest
from apercu.deploy.export.settings import FORMATS, PRECISIONS, ExportSettings

__all__ = [
    "FORMATS",
    "MANIFEST",
    "PRECISIONS",
    "ExportSettings",
    "Manifest",
    "write_export",
    "read_manifest",
]
