"""An attacker who knows of the guard: another class, and signals like those of honest images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from apercu.devices import copy_inference
from apercu.guard.guard import Guard
from apercu.guard.network import GuardNetwork
from apercu.robustness.objectives import AttackObjective, BatchFlags
from apercu.types import Images, Scores, Targets
from apercu.verdicts import count_below_alarm

EVASION = 1.0
"""Weight of the logarithm of what is above the guard's limits, beside the margin in logits."""
FULL_MARGIN = 3.0
"""Margin of another class beyond which only the guard matters."""


@final
@dataclass(frozen=True, eq=False)
class Evasion(AttackObjective):
    """Any class except the predicted one, without an alarm of the guard.

    Args:
        guard: the guard.
        labels: classes that are predicted for the clean images.
    """

    guard: Guard
    labels: Targets

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", copy_inference(self.labels))

    def score(self, images: Images) -> Scores:
        observation = self.guard.observer.observe(images)
        network = self.guard.network.to(images.device)
        decision = self.guard.observer.classifier.decision
        margin = -decision.margin(observation.logits, self.labels)
        standardised = (network.measure(observation) - network.centre) / network.spread
        totals = network.combine(standardised)
        excess = (totals - find_limits(network, self.guard.record.false_alarms)).clamp(min=0)
        return margin.clamp(max=FULL_MARGIN) - EVASION * excess.log1p().sum(1)

    @torch.no_grad()
    def is_adversarial(self, images: Images) -> BatchFlags:
        """Whether another class is predicted; an alarm does not make the attack fail."""
        decision = self.guard.observer.classifier.decision
        observation = self.guard.observer.observe(images)
        return ~decision.is_predicted(observation.logits, self.labels)


def find_limits(network: GuardNetwork, false_alarms: float) -> Tensor:
    """Return the total of each question above which there is an alarm.

    Args:
        network: the network of a guard.
        false_alarms: fraction of honest images that raise an alarm.

    Returns:
        One number per question.
    """
    held_out = network.ranks.shape[1]
    exceeded = count_below_alarm(false_alarms, held_out)
    if exceeded > held_out:  # too few images for any alarm
        return torch.full_like(network.ranks[:, 0], math.inf)
    return network.ranks[:, exceeded - 1]
