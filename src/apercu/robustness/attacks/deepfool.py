"""DeepFool: the shortest step over the nearest boundary (Moosavi-Dezfooli et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from apercu.classifiers.decisions import find_decision
from apercu.devices import copy_inference, enable_gradients
from apercu.errors import ConfigError
from apercu.filters.checks import check_count, check_not_negative
from apercu.robustness.attacks.base import Access, Attack, check_gradients
from apercu.robustness.objectives import AttackObjective, Untargeted
from apercu.types import Images


@final
@dataclass(frozen=True)
class DeepFool(Attack):
    """Steps to the nearest boundary as if the classifier were linear, until it is crossed.

    Args:
        steps: largest number of steps.
        classes: number of classes that are considered, those with the highest logits.
        overshoot: length of the step beyond the boundary, as a fraction of the step.
    """

    steps: int = 50
    classes: int = 10
    overshoot: float = 0.02
    needs: ClassVar[Access] = "gradients"

    def __post_init__(self) -> None:
        check_count(self.steps, "deepfool: steps")
        check_count(self.classes - 1, "deepfool: classes, besides the true one")
        check_not_negative(self.overshoot, "deepfool: overshoot")

    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        if not isinstance(objective, Untargeted):
            raise ConfigError(
                "deepfool: expected no target, as it looks for the nearest other class; "
                "choose pgd for a target"
            )
        check_gradients(objective, images)
        with torch.no_grad():
            other_logits = objective.logits_fn(images).scatter(
                1, objective.labels[:, None], -torch.inf
            )
        count = min(self.classes - 1, other_logits.shape[1] - 1)
        if find_decision(objective.logits_fn).is_multiple:
            count = 0  # the class is lost by itself, not to another one
        rivals = other_logits.topk(count, dim=1).indices
        change, attacked = torch.zeros_like(images), images
        for _ in range(self.steps):
            unfinished = ~objective.is_adversarial(attacked)
            if not unfinished.any():
                break
            step = _find_boundary_step(objective, attacked, rivals)
            change = change + step * unfinished[:, None, None, None]
            attacked = (images + (1 + self.overshoot) * change).clamp(0, 1)
        return attacked


def _find_boundary_step(objective: Untargeted, images: Images, rivals: Tensor) -> Images:
    """Find the shortest step to a boundary with a rival class, by the linearised logits."""
    with enable_gradients():
        leaf, rivals = copy_inference(images.detach()).requires_grad_(), copy_inference(rivals)
        logits = objective.logits_fn(leaf)
        own = logits.gather(1, objective.labels[:, None])
        gaps = logits.gather(1, rivals) - own if rivals.shape[1] else -own
        steps, sizes = [], []
        for number in range(gaps.shape[1]):
            last = number == gaps.shape[1] - 1
            (gradient,) = torch.autograd.grad(gaps[:, number].sum(), leaf, retain_graph=not last)
            norm = gradient.flatten(1).square().sum(1).clamp(min=1e-12)
            distance = gaps[:, number].detach().abs() + 1e-4
            steps.append((distance / norm)[:, None, None, None] * gradient)
            sizes.append(distance / norm.sqrt())
    nearest = torch.stack(sizes).argmin(0)
    return torch.stack(steps)[nearest, torch.arange(len(images), device=images.device)]
