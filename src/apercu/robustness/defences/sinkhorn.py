"""Sinkhorn adversarial training: the answers to attacked images move as a cloud."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

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
from apercu.robustness.plan import NONE
from apercu.types import Images, Scores


@final
class Sinkhorn(Defence):
    """Cross-entropy of attacked images, and how far their answers lie from those of the honest.

    The distance is the Sinkhorn divergence between the two batches of logits (Bouniot et al. 2021).

    Attributes:
        attack: such as `pgd:epsilon=8/255,steps=7`.
        behind: the filter that stands in front of the network, also when it is used.
        weight: of the divergence.
        blur: regularisation of the transport, in squared units of a logit.
        rounds: most iterations of one transport.
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

    def compute_losses(self, lesson: DefenceBatch) -> dict[str, Scores]:
        answer = put_filter_in_front(self.behind, lesson.training_logits)
        shown = torch.cat([lesson.images, attack_batch(self.attack, self.behind, lesson)])
        honest, attacked = answer(shown).chunk(2)
        far = sinkhorn_divergence(honest, attacked, self.blur, self.rounds)
        return {
            "attacked": lesson.compute_loss(attacked),
            "transport": self.weight * far.expand(len(honest)),
        }

    def make_hard_images(self, lesson: DefenceBatch) -> Images:
        return attack_and_filter_batch(self.attack, self.behind, lesson)


def sinkhorn_divergence(
    first: Float[Tensor, "some dimensions"],
    second: Float[Tensor, "others dimensions"],
    blur: float,
    rounds: int,
    threshold: float = 0.1,
) -> Float[Tensor, ""]:
    """Transport cost between two clouds of points, less that within each of them.

    The cost is the squared distance, regularised by the entropy of the plan times `blur`; 0 for
    equal clouds.

    Args:
        first: one point per row, all with the same mass.
        second: likewise.
        blur: strength of the regularisation, in units of the cost.
        rounds: most iterations.
        threshold: mean change of the potentials below which the iterations end.
    """
    across = _compute_transport_cost(first, second, blur, rounds, threshold)
    within = [_compute_transport_cost(one, one, blur, rounds, threshold) for one in (first, second)]
    return across - sum(within) / 2


def _compute_transport_cost(
    first: Tensor, second: Tensor, blur: float, rounds: int, threshold: float
) -> Float[Tensor, ""]:
    """Value of the dual at the potentials that Sinkhorn's iterations reach.

    Its slope with respect to the points is that of the plan held fixed, as it should be at the
    optimum, so the iterations themselves are not differentiated.
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
