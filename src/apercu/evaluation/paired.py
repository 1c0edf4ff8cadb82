"""Whether two explainers differ on the same images, beyond chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from apercu.evaluation.results import ComparisonResults
from apercu.statistics import bootstrap_interval

FLIPS = 10_000


@dataclass(frozen=True)
class PairedDifference:
    """How much one explainer's score exceeds another's on the images that both have.

    Attributes:
        difference: mean over the images.
        ci95: its bootstrapped interval.
        p: two-sided, of a sign-flip test, adjusted for all comparisons of this metric (Holm 1979).
        n: images.
    """

    difference: float
    ci95: tuple[float, float]
    p: float
    n: int


def compute_paired_differences(
    results: ComparisonResults, metric: str, reference: str, seed: int = 0
) -> dict[str, PairedDifference]:
    """Every explainer's difference from the reference on one metric, by explainer.

    What is told the truth is compared like the others; who has no image in common is left out.
    """
    of_reference = results.scores.get((reference, metric), {})
    differences: dict[str, Float[np.ndarray, " images"]] = {}
    for (explainer, measured), scores in results.scores.items():
        shared = [image for image in scores if image in of_reference]
        if measured == metric and explainer != reference and shared:
            differences[explainer] = np.array([scores[i] - of_reference[i] for i in shared])
    p = adjust_holm({name: sign_flip_test(values, seed) for name, values in differences.items()})
    return {
        name: PairedDifference(
            float(values.mean()), bootstrap_interval(values, seed), p[name], len(values)
        )
        for name, values in differences.items()
    }


def sign_flip_test(differences: Float[np.ndarray, " images"], seed: int) -> float:
    """How often random signs give a mean at least as far from 0; never below 1 / 10,001.

    If two explainers do equally well, each difference could as well have the other sign.
    """
    sums = np.abs(_draw_signs(len(differences), seed) @ differences.astype(np.float32))
    rounding = 1e-5 * np.abs(differences).sum()
    return (int((sums >= abs(differences.sum()) - rounding).sum()) + 1) / (FLIPS + 1)


@lru_cache(maxsize=2)
def _draw_signs(count: int, seed: int) -> Float[np.ndarray, "flips images"]:
    draws = np.random.default_rng(seed).integers(0, 2, (FLIPS, count), dtype=np.int8)
    return (2 * draws - 1).astype(np.float32)


def adjust_holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted so that the chance of even one false finding stays below the level.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, p[name] * (len(p) - place)))
        adjusted[name] = highest
    return adjusted
