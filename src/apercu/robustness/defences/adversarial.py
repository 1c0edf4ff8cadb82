"""Adversarial training, also behind a filter."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, final

import torch
from pydantic import Field

from apercu.robustness.attacks import Attack
from apercu.robustness.defences.base import (
    AttackName,
    Defence,
    DefenceBatch,
    FilterName,
    put_filter_in_front,
)
from apercu.robustness.objectives import Untargeted
from apercu.robustness.plan import NONE, parse_attack, parse_filter
from apercu.types import Images, Scores


@final
class Adversarial(Defence):
    """Images that an attack has just made against the network itself (Madry et al. 2018).

    Behind a halftone, through which the attack goes, it is that of Lo and Patel (2021).

    Attributes:
        attack: such as `pgd:epsilon=8/255,steps=7`.
        behind: the filter that stands in front of the network, also when it is used.
        honest: share of the loss that honest images have, behind the same filter.
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

    def compute_losses(self, lesson: DefenceBatch) -> dict[str, Scores]:
        answer = put_filter_in_front(self.behind, lesson.training_logits)
        attacked = answer(attack_batch(self.attack, self.behind, lesson))
        terms = {"attacked": (1 - self.honest) * lesson.compute_loss(attacked)}
        if self.honest:
            terms["honest"] = self.honest * lesson.compute_loss(answer(lesson.images))
        return terms

    def make_hard_images(self, lesson: DefenceBatch) -> Images:
        return attack_and_filter_batch(self.attack, self.behind, lesson)


def attack_batch(attack: str, behind: str, lesson: DefenceBatch) -> Images:
    """Images that an attack makes against the network behind a filter, from this step's seed."""
    made: Attack = parse_attack(attack)
    if hasattr(made, "seed"):
        made = replace(made, seed=lesson.seed)  # type: ignore[type-var]
    return made(
        Untargeted(put_filter_in_front(behind, lesson.inference_logits), lesson.labels),
        lesson.images,
    )


def attack_and_filter_batch(attack: str, behind: str, lesson: DefenceBatch) -> Images:
    """The same images behind the filter, as the network receives them."""
    return filter_images(behind, attack_batch(attack, behind, lesson))


@torch.no_grad()
def filter_images(behind: str, images: Images) -> Images:
    """Images as they come out of a filter; the same ones for none."""
    filter = parse_filter(behind)
    return images if filter is None else filter(images)
