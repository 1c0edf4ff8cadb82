"""Pretexts: losses that need images alone, without labels; one file each."""

from __future__ import annotations

from apercu.pretraining.pretexts.adios import Adios
from apercu.pretraining.pretexts.base import Pretext, PretextBatch, PretextNetwork, PretextSample
from apercu.pretraining.pretexts.contrastive import Contrastive
from apercu.pretraining.pretexts.magnitudes import Magnitudes
from apercu.pretraining.pretexts.transformation import Transformation

__all__ = [
    "Adios",
    "Contrastive",
    "Magnitudes",
    "Pretext",
    "PretextBatch",
    "PretextNetwork",
    "PretextSample",
    "Transformation",
]
