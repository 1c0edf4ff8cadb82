"""The ways in which someone attacks who knows of a filter, and which of two results counts."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from apercu.robustness.measures import norms
from apercu.robustness.objectives import Aim, Reached
from apercu.robustness.plan import Job, bound_of, norm_of
from apercu.types import Images

Backward: TypeAlias = Literal["straight", "smooth"]

BACKWARDS: tuple[Backward, ...] = ("straight", "smooth")
"""What an attacker tries who knows of a filter: no gradient hides behind either of them alone."""


def ways(job: Job) -> tuple[Backward, ...]:
    """The backward passes that a job tries."""
    knows = job.attack is not None and job.attack.needs == "gradients" and job.behind is not None
    return BACKWARDS if knows else BACKWARDS[:1]


def takes_the_smaller(job: Job) -> bool:
    """Whether of two ways that fool the smaller change counts: where no budget says how small."""
    return len(ways(job)) > 1 and bound_of(job) is None


def undecided(job: Job, aim: Aim, made: Images) -> Reached:
    """For which images another way could do better: where the ways so far do not fool; anywhere
    if the smaller change counts, or the attack, one of the toolbox, draws for all images together.
    """
    if takes_the_smaller(job) or job.attack is None or not job.attack.climbs:
        return torch.ones(len(made), dtype=torch.bool, device=made.device)
    return ~aim.reached(made)


def better(job: Job, aim: Aim, images: Images, made: tuple[Images, Images]) -> Images:
    """Of two results for each image the one that fools; of two that do the smaller, or the first.

    Args:
        job: says what is small.
        aim: what they were made for.
        images: the honest ones.
        made: by the first way and by the second.
    """
    first, second = made
    fooled = aim.reached(first)
    if takes_the_smaller(job):
        sizes = [norms(images, one)[norm_of(job)] for one in made]
        fooled &= ~(aim.reached(second) & (sizes[1] < sizes[0]))
    return torch.where(fooled[:, None, None, None], first, second)
