"""Attacks: images that a classifier gets wrong, as close to the honest ones as it takes."""

from __future__ import annotations

from apercu.robustness.attacks.base import Attack
from apercu.robustness.attacks.deepfool import DeepFool
from apercu.robustness.attacks.multiplicative import Multiplicative
from apercu.robustness.attacks.signed import Fgsm, IFgsm, Pgd
from apercu.robustness.attacks.sparse_evo import SparseEvo

__all__ = ["Attack", "DeepFool", "Fgsm", "IFgsm", "Multiplicative", "Pgd", "SparseEvo"]
