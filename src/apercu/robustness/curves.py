"""Curves of the accuracy over the size of the change, and the areas under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from apercu.robustness.jobs import AttackResult, Job
from apercu.types import Images, Maps, Scores

POINTS = 41
"""Points of the curve of an attack without budgets."""
NEARLY_ALL = 0.98
"""Such a curve ends at the size that fools this fraction of the images that can be fooled."""
ROUNDING = 1e-6
"""A change that is larger than a budget by this, or less, is within the budget."""

NORMS = {
    "linf": "largest change of a value",
    "l2": "root mean square change of a value",
    "l0": "fraction of the pixels that differ",
}
"""Norms of a change in plain words, see `compute_norms`."""
STRONGEST = 0.2
"""Fraction of the pixels that counts as the strongest part of a map."""

JobResult: TypeAlias = tuple[Job, AttackResult]


class CurveKey(NamedTuple):
    """The attack, filter and knowledge that the points of one curve have in common."""

    attack: str
    filter: str
    knowledge: str


@dataclass(frozen=True)
class AccuracyCurve:
    """The accuracy over the mean size of the change in a norm; the first size is 0.

    For an attack without budgets the accuracy is the fraction of images that need a larger change.
    """

    attack: str
    filter: str
    knowledge: str
    norm: str
    sizes: tuple[float, ...]
    accuracy: tuple[float, ...]


class CurveWithAreas(NamedTuple):
    """A curve, and what each image contributes to the area under it."""

    curve: AccuracyCurve
    areas: Float[np.ndarray, " images"]


def measure_correctness_at(
    smallest: Float[np.ndarray, " images"], budgets: Sequence[float]
) -> Float[np.ndarray, "budgets images"]:
    """Measure which images stay correct at each budget (Šircelj and Skočaj 2020).

    The means over the images are an accuracy-perturbation curve.

    Args:
        smallest: norm of the smallest change that fools, for each image; 0 where the clean image is
            wrong already, infinity where no such change was found.
        budgets: norms at which the accuracy is measured.

    Returns:
        1 where an image needs more than a budget, else 0.
    """
    return (smallest[None, :] > np.asarray(budgets)[:, None] + ROUNDING).astype(float)


def area_under_accuracy_curve(
    correct: Float[np.ndarray, "sizes images"], sizes: Sequence[float]
) -> Float[np.ndarray, " images"]:
    """Compute what each image adds to the area under the accuracy curve (Bouniot et al. 2021).

    The mean is (1 / e_max) ∫ accuracy(e) de from 0 to e_max by the trapezoid rule, from the
    accuracy on clean images at 0 through the accuracy at every size.

    Args:
        correct: 1 where an image is correct at a size.
        sizes: norms, ascending, the first 0.

    Returns:
        One number in [0, 1] per image.
    """
    return np.trapezoid(correct, np.asarray(sizes), axis=0) / sizes[-1]


def compute_curves(
    results: Mapping[Job, AttackResult], clean: AttackResult
) -> list[CurveWithAreas]:
    """Compute one curve per attack, filter and knowledge, over all budgets.

    The curves of an attack end at the same size, so that their areas can be compared.

    Args:
        results: result of every job.
        clean: result for the clean images.

    Returns:
        Curves in the order of the jobs, with the areas under them.
    """
    groups: dict[CurveKey, list[JobResult]] = {}
    for job, result in results.items():
        if job.attack is not None and job.objective != "map":
            for name in result.top1:
                key = CurveKey(job.name, name, job.knowledge)
                groups.setdefault(key, []).append((job, result))
    curves = []
    for key, members in groups.items():
        end = _find_largest_size(key.attack, groups, clean)
        job = members[0][0]
        if job.epsilon is None:
            sizes = np.linspace(0, end, POINTS).tolist()
            correct = measure_correctness_at(_find_smallest_sizes(key, members, clean), sizes)
        else:
            sizes, correct = _measure_at_budgets(key, members, clean, end)
        accuracy = tuple(correct.mean(1).tolist())
        curve = AccuracyCurve(*key, job.norm, tuple(sizes), accuracy)
        curves.append(CurveWithAreas(curve, area_under_accuracy_curve(correct, sizes)))
    return curves


def _measure_at_budgets(
    key: CurveKey, members: Sequence[JobResult], clean: AttackResult, end: float
) -> tuple[list[float], Float[np.ndarray, "sizes images"]]:
    """Measure which images are correct at each mean size, ascending; clean images are at size 0.

    An attack with a budget of `end` whose changes stay smaller does no better there.
    """
    attacked = [
        (_measure_mean_size(key, member, clean), member[1].measure_correctness(key.filter))
        for member in members
    ]
    attacked.sort(key=lambda point: point[0])
    points = [(0.0, clean.measure_correctness(key.filter)), *attacked]
    if points[-1][0] < end:
        points.append((end, points[-1][1]))
    sizes, correct = zip(*points, strict=True)
    return list(sizes), np.stack(correct)


def _measure_mean_size(key: CurveKey, member: JobResult, clean: AttackResult) -> float:
    """Measure the mean size of the change of the images that were correct before."""
    job, result = member
    before = clean.measure_correctness(key.filter) > 0
    sizes = result.get_values(job.norm)
    return float(sizes[before].mean() if before.any() else sizes.mean())


def _find_smallest_sizes(
    key: CurveKey, members: Sequence[JobResult], clean: AttackResult
) -> Float[np.ndarray, " images"]:
    """Find the size of the change that fools each image: 0 without a change, infinity for none."""
    ((job, result),) = members
    fooled = result.measure_correctness(key.filter) <= 0
    sizes = np.where(fooled, result.get_values(job.norm), np.inf)
    return np.where(clean.measure_correctness(key.filter) > 0, sizes, 0.0)


def _find_largest_size(
    attack: str, groups: Mapping[CurveKey, Sequence[JobResult]], clean: AttackResult
) -> float:
    """Find the size at which all curves of an attack end."""
    ends: list[float] = []
    for key, members in groups.items():
        if key.attack != attack:
            continue
        if members[0][0].epsilon is None:
            ends.append(_find_typical_size(_find_smallest_sizes(key, members, clean)))
        else:
            ends += [_measure_mean_size(key, member, clean) for member in members]
    return max(ends) or 1.0


def _find_typical_size(smallest: Float[np.ndarray, " images"]) -> float:
    """Find the size that fools nearly all of the images that can be fooled."""
    finite = smallest[np.isfinite(smallest) & (smallest > 0)]
    return float(np.quantile(finite, NEARLY_ALL)) if len(finite) else 0.0


def compute_norms(images: Images, attacked: Images) -> dict[str, Scores]:
    """Compute the size of each change in three norms.

    `linf` is the largest change of a value, `l2` the root mean square over all values (1 is from
    black to white everywhere), and `l0` the fraction of pixels that differ at all.

    Args:
        images: clean images in [0, 1].
        attacked: the same images after an attack.

    Returns:
        One number per image, by the name of the norm.
    """
    change = (attacked - images).detach()
    return {
        "linf": change.abs().flatten(1).amax(1),
        "l2": change.flatten(1).square().mean(1).sqrt(),
        "l0": (change != 0).any(1).flatten(1).float().mean(1),
    }


def overlap_of_strongest(before: Maps, after: Maps) -> Scores:
    """Compute the IoU of the strongest fifth of the pixels of two maps."""
    count = max(1, round(STRONGEST * before[0].numel()))
    strongest = []
    for maps in (before, after):
        flat = maps.flatten(1)
        indices = flat.topk(count, dim=1).indices
        strongest.append(torch.zeros_like(flat, dtype=torch.bool).scatter_(1, indices, 1))
    both = (strongest[0] & strongest[1]).sum(1)
    either = (strongest[0] | strongest[1]).sum(1)
    return both / either
