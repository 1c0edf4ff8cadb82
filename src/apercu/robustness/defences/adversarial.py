"""Adversarial training, also behind a filter."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, final

import torch
from pydantic import Field

from apercu.robustness.attacks import Attack
from apercu.robustness.defences.base import AttackName, Defence, FilterName, Lesson, in_front
from apercu.robustness.named import NONE, attack_named, filter_named
from apercu.robustness.objectives import Untargeted
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
    def shown_behind(self) -> tuple[str, ...]:
        return (self.behind,)

    def usual(self, images: Images) -> Images:
        return filtered(self.behind, images)

    def terms(self, lesson: Lesson) -> dict[str, Scores]:
        answer = in_front(self.behind, lesson.learns)
        attacked = answer(made(self.attack, self.behind, lesson))
        terms = {"attacked": (1 - self.honest) * lesson.loss(attacked)}
        if self.honest:
            terms["honest"] = self.honest * lesson.loss(answer(lesson.images))
        return terms

    def hard(self, lesson: Lesson) -> Images:
        return received(self.attack, self.behind, lesson)


def made(attack: str, behind: str, lesson: Lesson) -> Images:
    """Images that an attack makes against the network behind a filter, from this step's seed."""
    made: Attack = attack_named(attack)
    if hasattr(made, "seed"):
        made = replace(made, seed=lesson.seed)  # type: ignore[type-var]
    return made(Untargeted(in_front(behind, lesson.judges), lesson.labels), lesson.images)


def received(attack: str, behind: str, lesson: Lesson) -> Images:
    """The same images behind the filter, as the network receives them."""
    return filtered(behind, made(attack, behind, lesson))


@torch.no_grad()
def filtered(behind: str, images: Images) -> Images:
    """Images as they come out of a filter; the same ones for none."""
    filter = filter_named(behind)
    return images if filter is None else filter(images)
