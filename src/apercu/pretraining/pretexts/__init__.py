"""Pretexts: losses that need images alone, without labels; one file each."""

from __future__ import annotations

from apercu.pretraining.pretexts.adios import Adios
from apercu.pretraining.pretexts.base import Pretext, PretextBatch, PretextNetwork, PretextSample
from apercu.pretraining.pretexts.clusters import Clusters
from apercu.pretraining.pretexts.colours import Colours
from apercu.pretraining.pretexts.contrastive import Contrastive
from apercu.pretraining.pretexts.magnitudes import Magnitudes
from apercu.pretraining.pretexts.regions import Regions
from apercu.pretraining.pretexts.transformation import Transformation

__all__ = [
    "Adios",
    "Clusters",
    "Colours",
    "Contrastive",
    "Magnitudes",
    "Pretext",
    "PretextBatch",
    "PretextNetwork",
    "PretextSample",
    "Regions",
    "Transformation",
]
