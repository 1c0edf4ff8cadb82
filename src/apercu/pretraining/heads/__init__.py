"""What is learnt from few labels on top of features that stand still: one file each."""

from __future__ import annotations

from apercu.pretraining.heads.base import Head, Reads
from apercu.pretraining.heads.dense import Dense
from apercu.pretraining.heads.linear import Linear
from apercu.pretraining.heads.nearest import Nearest

HEADS: dict[str, type[Head]] = {"linear": Linear, "dense": Dense, "nearest": Nearest}
"""By the name that people type; each is called with its settings."""

__all__ = ["HEADS", "Dense", "Head", "Linear", "Nearest", "Reads"]
