"""Attacks that follow the sign of the gradient: FGSM, I-FGSM, PGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Generator

from apercu.option_strings import MAX_SEED
from apercu.robustness.attacks.base import (
    Access,
    Attack,
    Norm,
    check_budget,
    check_count,
    check_pace,
    choose_start,
    compute_gradients,
    compute_lengths,
)
from apercu.robustness.filters.base import check_whole
from apercu.robustness.objectives import AttackObjective
from apercu.types import Images, Scores


@final
@dataclass(frozen=True)
class Fgsm(Attack):
    """One step along the sign of the gradient (Goodfellow et al. 2015).

    Args:
        epsilon: largest change of a value, in units of the range [0, 1].
    """

    epsilon: float = 8 / 255
    needs: ClassVar[Access] = "gradients"
    any_objective: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_budget(self.epsilon, "fgsm")

    def __call__(self, aim: AttackObjective, images: Images) -> Images:
        found, _ = compute_gradients(aim, choose_start(aim, images), clean=images)
        return (images + self.epsilon * found.sign()).clamp(0, 1)


@final
@dataclass(frozen=True)
class IFgsm(Attack):
    """FGSM in small steps, without a random start (Kurakin et al. 2017).

    Args:
        epsilon: largest change of a value, in units of the range [0, 1].
        steps: how many.
        pace: length of a step, as a share of epsilon.
    """

    epsilon: float = 8 / 255
    steps: int = 10
    pace: float = 0.25
    needs: ClassVar[Access] = "gradients"
    any_objective: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_budget(self.epsilon, "i_fgsm")
        check_count(self.steps, "i_fgsm: steps")
        check_pace(self.pace, "i_fgsm")

    def __call__(self, aim: AttackObjective, images: Images) -> Images:
        return _ascend_in_box(aim, images, choose_start(aim, images), self)


@final
@dataclass(frozen=True)
class Pgd(Attack):
    """Projected gradient ascent from a random start (Madry et al. 2018).

    Of several restarts each image keeps the one that arrived, or else the one with the highest
    score. The start is the same for every image.

    Args:
        epsilon: radius in units of the range [0, 1]: the largest change of a value for `linf`, for
            `l2` the root of the mean squared change of a value, so that a radius means the same
            at any size.
        steps: per restart.
        pace: length of a step, as a share of epsilon.
        norm: of the ball.
        restarts: how many starts.
        seed: of the starts.
    """

    epsilon: float = 8 / 255
    steps: int = 10
    pace: float = 0.25
    norm: Norm = "linf"
    restarts: int = 1
    seed: int = 0
    needs: ClassVar[Access] = "gradients"
    any_objective: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_budget(self.epsilon, "pgd")
        check_count(self.steps, "pgd: steps")
        check_pace(self.pace, "pgd")
        check_count(self.restarts, "pgd: restarts")
        check_whole("pgd", 0, MAX_SEED, seed=self.seed)

    def __call__(self, aim: AttackObjective, images: Images) -> Images:
        generator = torch.Generator().manual_seed(self.seed)
        best, merit = images, torch.full((len(images),), -torch.inf, device=images.device)
        for _ in range(self.restarts):
            start = self._draw_start(images, generator)
            if self.norm == "linf":
                found = _ascend_in_box(aim, images, start, self)
            else:
                found = self._ascend_in_ball(aim, images, start)
            if self.restarts == 1:
                return found
            with torch.no_grad():
                reached: Scores = aim.score(found).nan_to_num(torch.inf)
            reached = torch.where(aim.is_adversarial(found), torch.inf, reached)
            better = (reached > merit)[:, None, None, None]
            best, merit = torch.where(better, found, best), torch.maximum(merit, reached)
        return best

    def _compute_radius(self, images: Images) -> float:
        """Of the Euclidean ball, as a length."""
        return float(self.epsilon * images[0].numel() ** 0.5)

    def _draw_start(self, images: Images, generator: Generator) -> Images:
        shape = images.shape[1:]
        if self.norm == "linf":
            noise = self.epsilon * (2 * torch.rand(shape, generator=generator) - 1)
        else:
            noise = torch.randn(shape, generator=generator)
            share = torch.rand((), generator=generator) ** (1 / noise.numel())
            noise = (
                F.normalize(noise.flatten(), dim=0).view(shape)
                * share
                * self._compute_radius(images)
            )
        return (images + noise.to(images)).clamp(0, 1)

    def _ascend_in_ball(self, aim: AttackObjective, images: Images, start: Images) -> Images:
        radius, moved = self._compute_radius(images), start
        for step in range(self.steps):
            found, _ = compute_gradients(aim, moved, clean=None if step else images)
            ahead = found / compute_lengths(found).clamp(min=1e-30)
            change = moved + self.pace * radius * ahead - images
            change = change * (radius / compute_lengths(change).clamp(min=1e-12)).clamp(max=1)
            moved = (images + change).clamp(0, 1)
        return moved


def _ascend_in_box(
    aim: AttackObjective, images: Images, start: Images, settings: IFgsm | Pgd
) -> Images:
    """Steps along the sign of the gradient, kept in the box around the images."""
    epsilon, moved = settings.epsilon, start
    for step in range(settings.steps):
        found, _ = compute_gradients(aim, moved, clean=None if step else images)
        moved = moved + settings.pace * epsilon * found.sign()
        moved = torch.clamp(moved, images - epsilon, images + epsilon).clamp(0, 1)
    return moved
