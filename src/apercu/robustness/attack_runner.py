"""The ways in which someone attacks who knows of a filter, and which of two results counts."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from apercu.robustness.measures import compute_norms
from apercu.robustness.objectives import AttackObjective, BatchFlags
from apercu.robustness.plan import Job, bound_of, norm_of
from apercu.types import Images

BpdaMode: TypeAlias = Literal["straight_through", "surrogate"]

BPDA_MODES: tuple[BpdaMode, ...] = ("straight_through", "surrogate")
"""What an attacker tries who knows of a filter: no gradient hides behind either of them alone."""


def find_bpda_modes(job: Job) -> tuple[BpdaMode, ...]:
    """The backward passes that a job tries."""
    knows = (
        job.attack is not None and job.attack.needs == "gradients" and job.known_filter is not None
    )
    return BPDA_MODES if knows else BPDA_MODES[:1]


def prefers_smaller_change(job: Job) -> bool:
    """Whether of two ways that fool the smaller change counts: where no budget says how small."""
    return len(find_bpda_modes(job)) > 1 and bound_of(job) is None


def find_improvable(job: Job, aim: AttackObjective, made: Images) -> BatchFlags:
    """For which images another way could do better: where the ways so far do not fool; anywhere
    if the smaller change counts, or the attack, one of the toolbox, draws for all images together.
    """
    if prefers_smaller_change(job) or job.attack is None or not job.attack.any_objective:
        return torch.ones(len(made), dtype=torch.bool, device=made.device)
    return ~aim.is_adversarial(made)


def choose_better(
    job: Job, aim: AttackObjective, images: Images, made: tuple[Images, Images]
) -> Images:
    """Of two results for each image the one that fools; of two that do the smaller, or the first.

    Args:
        job: says what is small.
        aim: what they were made for.
        images: the honest ones.
        made: by the first way and by the second.
    """
    first, second = made
    fooled = aim.is_adversarial(first)
    if prefers_smaller_change(job):
        sizes = [compute_norms(images, one)[norm_of(job)] for one in made]
        fooled &= ~(aim.is_adversarial(second) & (sizes[1] < sizes[0]))
    return torch.where(fooled[:, None, None, None], first, second)
