"""Attacks that follow the sign of the gradient: FGSM, I-FGSM, PGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Generator

from apercu.filters.checks import check_budget, check_count, check_positive, check_whole
from apercu.option_strings import MAX_SEED
from apercu.robustness.attacks.base import (
    Access,
    Attack,
    Norm,
    choose_start,
    compute_gradients,
    compute_lengths,
)
from apercu.robustness.objectives import AttackObjective
from apercu.types import Images, Scores


@final
@dataclass(frozen=True)
class Fgsm(Attack):
    """Takes one step along the sign of the gradient (Goodfellow et al. 2015).

    Args:
        epsilon: largest change of a value, in units of the range [0, 1].
    """

    epsilon: float = 8 / 255
    needs: ClassVar[Access] = "gradients"
    any_objective: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_budget(self.epsilon, "fgsm")

    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        gradients, _ = compute_gradients(objective, choose_start(objective, images), clean=images)
        return (images + self.epsilon * gradients.sign()).clamp(0, 1)


@final
@dataclass(frozen=True)
class IFgsm(Attack):
    """Repeats FGSM in small steps, without a random start (Kurakin et al. 2017).

    Args:
        epsilon: largest change of a value, in units of the range [0, 1].
        steps: number of steps.
        pace: length of a step, as a fraction of epsilon.
    """

    epsilon: float = 8 / 255
    steps: int = 10
    pace: float = 0.25
    needs: ClassVar[Access] = "gradients"
    any_objective: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_budget(self.epsilon, "i_fgsm")
        check_count(self.steps, "i_fgsm: steps")
        check_positive("i_fgsm", pace=self.pace)

    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        return _ascend_in_box(objective, images, choose_start(objective, images), self)


@final
@dataclass(frozen=True)
class Pgd(Attack):
    """Projects gradient ascent from a random start onto a ball (Madry et al. 2018).

    Of several restarts each image keeps one that is adversarial, or else the one with the highest
    score. The random start is the same for every image.

    Args:
        epsilon: radius in units of the range [0, 1]: the largest change of a value for `linf`, for
            `l2` the root of the mean squared change of a value, so that a radius means the same
            at any size.
        steps: number of steps of a restart.
        pace: length of a step, as a fraction of epsilon.
        norm: norm of the ball.
        restarts: number of random starts.
        seed: seed of the random starts.
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
        check_positive("pgd", pace=self.pace)
        check_count(self.restarts, "pgd: restarts")
        check_whole("pgd", 0, MAX_SEED, seed=self.seed)

    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        generator = torch.Generator().manual_seed(self.seed)
        best, best_scores = images, torch.full((len(images),), -torch.inf, device=images.device)
        for _ in range(self.restarts):
            start = self._draw_start(images, generator)
            if self.norm == "linf":
                attacked = _ascend_in_box(objective, images, start, self)
            else:
                attacked = self._ascend_in_ball(objective, images, start)
            if self.restarts == 1:
                return attacked
            with torch.no_grad():
                scores: Scores = objective.score(attacked).nan_to_num(torch.inf)
            scores = torch.where(objective.is_adversarial(attacked), torch.inf, scores)
            better = (scores > best_scores)[:, None, None, None]
            best = torch.where(better, attacked, best)
            best_scores = torch.maximum(best_scores, scores)
        return best

    def _compute_radius(self, images: Images) -> float:
        """Compute the radius of the Euclidean ball, as a length."""
        return float(self.epsilon * images[0].numel() ** 0.5)

    def _draw_start(self, images: Images, generator: Generator) -> Images:
        """Draw a start within the ball around each image; the noise is the same for all."""
        shape = images.shape[1:]
        if self.norm == "linf":
            noise = self.epsilon * (2 * torch.rand(shape, generator=generator) - 1)
        else:
            noise = torch.randn(shape, generator=generator)
            fraction = torch.rand((), generator=generator) ** (1 / noise.numel())
            noise = (
                F.normalize(noise.flatten(), dim=0).view(shape)
                * fraction
                * self._compute_radius(images)
            )
        return (images + noise.to(images)).clamp(0, 1)

    def _ascend_in_ball(self, objective: AttackObjective, images: Images, start: Images) -> Images:
        """Step along the gradient, and stay in the Euclidean ball around the images."""
        radius, attacked = self._compute_radius(images), start
        for step in range(self.steps):
            gradients, _ = compute_gradients(objective, attacked, clean=None if step else images)
            direction = gradients / compute_lengths(gradients).clamp(min=1e-30)
            change = attacked + self.pace * radius * direction - images
            change = change * (radius / compute_lengths(change).clamp(min=1e-12)).clamp(max=1)
            attacked = (images + change).clamp(0, 1)
        return attacked


def _ascend_in_box(
    objective: AttackObjective, images: Images, start: Images, settings: IFgsm | Pgd
) -> Images:
    """Step along the sign of the gradient, and stay in the box around the images."""
    epsilon, attacked = settings.epsilon, start
    for step in range(settings.steps):
        gradients, _ = compute_gradients(objective, attacked, clean=None if step else images)
        attacked = attacked + settings.pace * epsilon * gradients.sign()
        attacked = torch.clamp(attacked, images - epsilon, images + epsilon).clamp(0, 1)
    return attacked
