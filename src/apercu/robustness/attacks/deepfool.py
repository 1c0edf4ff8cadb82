"""DeepFool: the shortest way over the nearest boundary (Moosavi-Dezfooli et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from apercu.errors import ConfigError
from apercu.robustness.attacks.base import (
    Access,
    Attack,
    check_count,
    check_gradients,
    check_not_negative,
)
from apercu.robustness.objectives import AttackObjective, Untargeted
from apercu.types import Images


@final
@dataclass(frozen=True)
class DeepFool(Attack):
    """Steps to the nearest boundary as if the classifier were linear, until it is crossed.

    Args:
        steps: at most.
        classes: candidates, those that are seen most.
        overshoot: how much further than the boundary, as a share.
    """

    steps: int = 50
    classes: int = 10
    overshoot: float = 0.02
    needs: ClassVar[Access] = "gradients"

    def __post_init__(self) -> None:
        check_count(self.steps, "deepfool: steps")
        check_count(self.classes - 1, "deepfool: classes, besides the true one")
        check_not_negative(self.overshoot, "deepfool: overshoot")

    def __call__(self, aim: AttackObjective, images: Images) -> Images:
        if not isinstance(aim, Untargeted):
            raise ConfigError("deepfool: knows any other class as its aim, and no target")
        check_gradients(aim, images)
        with torch.no_grad():
            others = aim.logits_fn(images).scatter(1, aim.labels[:, None], -torch.inf)
        count = min(self.classes - 1, others.shape[1] - 1)
        rivals = others.topk(count, dim=1).indices
        change, moved = torch.zeros_like(images), images
        for _ in range(self.steps):
            open_still = ~aim.is_adversarial(moved)
            if not open_still.any():
                break
            step = _find_boundary_step(aim, moved, rivals)
            change = change + step * open_still[:, None, None, None]
            moved = (images + (1 + self.overshoot) * change).clamp(0, 1)
        return moved


def _find_boundary_step(aim: Untargeted, images: Images, rivals: Tensor) -> Images:
    """The shortest step to a boundary with one of the rivals, by the linearised logits."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = aim.logits_fn(leaf)
        gaps = logits.gather(1, rivals) - logits.gather(1, aim.labels[:, None])
        steps, sizes = [], []
        for number in range(rivals.shape[1]):
            last = number == rivals.shape[1] - 1
            (slope,) = torch.autograd.grad(gaps[:, number].sum(), leaf, retain_graph=not last)
            norm = slope.flatten(1).square().sum(1).clamp(min=1e-12)
            distance = gaps[:, number].detach().abs() + 1e-4
            steps.append((distance / norm)[:, None, None, None] * slope)
            sizes.append(distance / norm.sqrt())
    nearest = torch.stack(sizes).argmin(0)
    return torch.stack(steps)[nearest, torch.arange(len(images), device=images.device)]
