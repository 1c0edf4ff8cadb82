"""Adversarial training, bare or behind a filter."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, final

import torch
from pydantic import Field

from apercu.filters import NONE, parse_filter
from apercu.robustness.attacks import Attack
from apercu.robustness.defences.base import (
    AttackName,
    Defence,
    DefenceBatch,
    FilterName,
    put_filter_in_front,
)
from apercu.robustness.objectives import Untargeted
from apercu.robustness.plan import parse_attack
from apercu.types import Images, Scores


@final
class Adversarial(Defence):
    """Trains with images that an attack makes against the network at each step (Madry et al. 2018).

    Behind a halftone, through which the attack goes, it is the defence of Lo and Patel (2021).

    Attributes:
        attack: the attack, such as `pgd:epsilon=8/255,steps=7`.
        behind: the filter in front of the network, also when it is used.
        honest: fraction of the loss that clean images have, behind the same filter.
    """

    form: Literal["adversarial"] = "adversarial"
    attack: AttackName = "pgd:epsilon=8/255,steps=7"
    behind: FilterName = NONE
    honest: float = Field(0.0, ge=0, lt=1)

    @property
    def test_filters(self) -> tuple[str, ...]:
        return (self.behind,)

    def prepare_clean(self, images: Images) -> Images:
        return filter_images(self.behind, images)

    def compute_losses(self, batch: DefenceBatch) -> dict[str, Scores]:
        logits_fn = put_filter_in_front(self.behind, batch.training_logits)
        attacked = logits_fn(attack_batch(self.attack, self.behind, batch))
        terms = {"attacked": (1 - self.honest) * batch.compute_loss(attacked)}
        if self.honest:
            terms["honest"] = self.honest * batch.compute_loss(logits_fn(batch.images))
        return terms

    def make_hard_images(self, batch: DefenceBatch) -> Images:
        return attack_and_filter_batch(self.attack, self.behind, batch)


def attack_batch(attack: str, behind: str, batch: DefenceBatch) -> Images:
    """Attack a network behind a filter.

    Args:
        attack: name of the attack; it draws from the batch's seed.
        behind: name of the filter.
        batch: the network and clean images.

    Returns:
        Adversarial images, before they are filtered.
    """
    parsed: Attack = parse_attack(attack)
    if hasattr(parsed, "seed"):
        parsed = replace(parsed, seed=batch.seed)  # type: ignore[type-var]
    return parsed(
        Untargeted(put_filter_in_front(behind, batch.inference_logits), batch.labels),
        batch.images,
    )


def attack_and_filter_batch(attack: str, behind: str, batch: DefenceBatch) -> Images:
    """Attack a network behind a filter; return the images as they are after the filter."""
    return filter_images(behind, attack_batch(attack, behind, batch))


@torch.no_grad()
def filter_images(behind: str, images: Images) -> Images:
    """Filter images; return them as they are for the filter `none`."""
    filter = parse_filter(behind)
    return images if filter is None else filter(images)
