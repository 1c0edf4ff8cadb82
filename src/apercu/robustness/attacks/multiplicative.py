"""Multiplicative attacks: pixels are multiplied instead of added to (Lo and Patel, MultAV)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from apercu.errors import ConfigError
from apercu.filters.checks import check_count, check_positive
from apercu.robustness.attacks.base import (
    Access,
    Attack,
    Norm,
    choose_start,
    compute_gradients,
    compute_lengths,
)
from apercu.robustness.objectives import AttackObjective
from apercu.types import Images

SMALLEST_VALUE = 1e-3
"""Values below this one are raised to it, so that black can be multiplied, too."""


@final
@dataclass(frozen=True)
class Multiplicative(Attack):
    """Multiplies pixels by factors: x ← x · α^sign(g), or x · α^(g/|g|), with the gradient g.

    Args:
        ratio: largest factor by which a value grows or shrinks, above 1. For `l2` the factor
            whose logarithm is the root mean squared logarithm of all factors of an image.
        steps: number of steps.
        pace: length of a step, as a fraction of the largest change, both as logarithms.
        norm: norm of the logarithms of the factors.
    """

    ratio: float = 1.1
    steps: int = 10
    pace: float = 0.25
    norm: Norm = "linf"
    needs: ClassVar[Access] = "gradients"
    any_objective: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.ratio <= 10:
            raise ConfigError(f"mult: ratio: expected a factor from 1 to 10, got {self.ratio:g}")
        check_count(self.steps, "mult: steps")
        check_positive("mult", pace=self.pace)

    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        base, reach = images.clamp(min=SMALLEST_VALUE), math.log(self.ratio)
        radius = reach * images[0].numel() ** 0.5
        factors = torch.zeros_like(images)  # as logarithms
        attacked = choose_start(objective, images)
        for number in range(self.steps):
            gradients, _ = compute_gradients(objective, attacked, clean=None if number else images)
            if self.norm == "linf":
                factors = factors + self.pace * reach * gradients.sign()
                factors = factors.clamp(-reach, reach)
            else:
                step = gradients / compute_lengths(gradients).clamp(min=1e-30)
                factors = factors + self.pace * radius * step
                factors = factors * (radius / compute_lengths(factors).clamp(min=1e-12)).clamp(
                    max=1
                )
            attacked = torch.where(factors == 0, images, base * factors.exp()).clamp(0, 1)
        return attacked
