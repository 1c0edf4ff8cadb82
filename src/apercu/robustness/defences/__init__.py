"""Defences: losses with which a classifier is trained so that attacks succeed less often."""

from __future__ import annotations

from apercu.robustness.defences.adversarial import Adversarial
from apercu.robustness.defences.base import Defence, DefenceBatch, Standard
from apercu.robustness.defences.hybrid import Hybrid
from apercu.robustness.defences.purifier import (
    QuantisedAutoencoderDefence,
    StochasticStudentDefence,
)
from apercu.robustness.defences.sinkhorn import Sinkhorn, sinkhorn_divergence

__all__ = [
    "Adversarial",
    "Defence",
    "DefenceBatch",
    "Hybrid",
    "QuantisedAutoencoderDefence",
    "Sinkhorn",
    "Standard",
    "StochasticStudentDefence",
    "sinkhorn_divergence",
]
