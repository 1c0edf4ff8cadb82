"""Attacks: they change clean images as little as possible until a classifier gets them wrong."""

from __future__ import annotations

from apercu.robustness.attacks.base import Attack
from apercu.robustness.attacks.deepfool import DeepFool
from apercu.robustness.attacks.multiplicative import Multiplicative
from apercu.robustness.attacks.signed import Fgsm, IFgsm, Pgd
from apercu.robustness.attacks.smooth import SmoothPgd
from apercu.robustness.attacks.sparse_evo import SparseEvo
from apercu.robustness.attacks.toolbox import AutoAttack, CarliniWagner, HopSkipJump, Square

ATTACKS: dict[str, type[Attack]] = {
    "fgsm": Fgsm,
    "i_fgsm": IFgsm,
    "pgd": Pgd,
    "smooth_pgd": SmoothPgd,
    "mult": Multiplicative,
    "deepfool": DeepFool,
    "sparse_evo": SparseEvo,
    "carlini_wagner": CarliniWagner,
    "auto_attack": AutoAttack,
    "hop_skip_jump": HopSkipJump,
    "square": Square,
}
"""Attack classes by the names that people type."""

__all__ = [
    "ATTACKS",
    "Attack",
    "AutoAttack",
    "CarliniWagner",
    "DeepFool",
    "Fgsm",
    "HopSkipJump",
    "IFgsm",
    "Multiplicative",
    "Pgd",
    "SmoothPgd",
    "SparseEvo",
    "Square",
]
