"""Trained explainers as graphs and programs that run elsewhere, checked and measured first."""

from __future__ import annotations

from apercu.deploy.export.export_run import export, write_export
from apercu.deploy.export.manifest import MANIFEST, Manifest, read_manifest
from apercu.deploy.export.settings import FORMATS, PRECISIONS, ExportInputs, ExportSettings

__all__ = [
    "FORMATS",
    "MANIFEST",
    "PRECISIONS",
    "ExportInputs",
    "ExportSettings",
    "Manifest",
    "export",
    "read_manifest",
    "write_export",
]
