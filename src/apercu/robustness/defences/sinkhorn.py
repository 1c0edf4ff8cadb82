"""Sinkhorn adversarial training: logits of attacked images stay close to clean ones as a set."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from apercu.filters import NONE
from apercu.robustness.defences.adversarial import (
    attack_and_filter_batch,
    attack_batch,
    filter_images,
)
from apercu.robustness.defences.base import (
    AttackName,
    Defence,
    DefenceBatch,
    FilterName,
    put_filter_in_front,
)
from apercu.types import Images, Scores


@final
class Sinkhorn(Defence):
    """Trains with attacked images, and keeps their logits near those of clean images.

    The distance is the Sinkhorn divergence between the two batches of logits (Bouniot et al. 2021).

    Attributes:
        attack: the attack, such as `pgd:epsilon=8/255,steps=7`.
        behind: the filter in front of the network, also when it is used.
        weight: weight of the divergence.
        blur: strength of the regularisation, in squared units of a logit.
        rounds: largest number of iterations of one transport.
    """

    form: Literal["sinkhorn"] = "sinkhorn"
    attack: AttackName = "pgd:epsilon=8/255,steps=7"
    behind: FilterName = NONE
    weight: float = Field(1.0, ge=0)
    blur: float = Field(1.0, gt=0)
    rounds: int = Field(50, ge=1)

    @property
    def test_filters(self) -> tuple[str, ...]:
        return (self.behind,)

    def prepare_clean(self, images: Images) -> Images:
        return filter_images(self.behind, images)

    def compute_losses(self, batch: DefenceBatch) -> dict[str, Scores]:
        logits_fn = put_filter_in_front(self.behind, batch.training_logits)
        images = torch.cat([batch.images, attack_batch(self.attack, self.behind, batch)])
        clean, attacked = logits_fn(images).chunk(2)
        divergence = sinkhorn_divergence(clean, attacked, self.blur, self.rounds)
        return {
            "attacked": batch.compute_loss(attacked),
            "transport": self.weight * divergence.expand(len(clean)),
        }

    def make_hard_images(self, batch: DefenceBatch) -> Images:
        return attack_and_filter_batch(self.attack, self.behind, batch)


def sinkhorn_divergence(
    first: Float[Tensor, "some dimensions"],
    second: Float[Tensor, "others dimensions"],
    blur: float,
    rounds: int,
    threshold: float = 0.1,
) -> Float[Tensor, ""]:
    """Compute the transport cost between two sets of points, less the cost within each of them.

    The cost is the squared distance, regularised by the entropy of the plan times `blur`. The
    divergence is 0 for equal sets.

    Args:
        first: points, one per row, all with the same mass.
        second: points, one per row, all with the same mass.
        blur: strength of the regularisation, in units of the cost.
        rounds: largest number of iterations.
        threshold: mean change of the potentials below which the iterations end.

    Returns:
        The divergence, one number.
    """
    across = _compute_transport_cost(first, second, blur, rounds, threshold)
    within = [
        _compute_transport_cost(points, points, blur, rounds, threshold)
        for points in (first, second)
    ]
    return across - sum(within) / 2


def _compute_transport_cost(
    first: Tensor, second: Tensor, blur: float, rounds: int, threshold: float
) -> Float[Tensor, ""]:
    """Compute the dual cost at the potentials that Sinkhorn's iterations reach.

    Its gradient with respect to the points is that of a fixed plan, as it is at the optimum, so
    the iterations themselves are not differentiated.
    """
    cost = (first[:, None] - second[None]).square().sum(2)
    mass = (-math.log(len(first)), -math.log(len(second)))
    with torch.no_grad():
        left, right = cost.new_zeros(len(first)), cost.new_zeros(len(second))
        for _ in range(rounds):
            before = left
            left = -blur * ((right - cost) / blur + mass[1]).logsumexp(1)
            right = -blur * ((left[:, None] - cost) / blur + mass[0]).logsumexp(0)
            if (left - before).abs().mean() < threshold:
                break
        log_plan = (left[:, None] + right - cost) / blur + sum(mass)
        plan = log_plan.exp()
    entropy = (plan * (log_plan - sum(mass))).sum()
    return (plan * cost).sum() + blur * entropy
