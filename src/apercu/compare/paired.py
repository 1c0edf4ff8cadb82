"""Whether two explainers differ on the same images, beyond chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from apercu.compare.interval import interval
from apercu.compare.results import Results

FLIPS = 10_000
AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Paired:
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


def paired(results: Results, metric: str, reference: str, seed: int = 0) -> dict[str, Paired]:
    """Every explainer's difference from the reference on one metric, by explainer.

    What is told the truth is compared like the others; who has no image in common is left out.
    """
    of_reference = results.scores.get((reference, metric), {})
    differences: dict[str, Float[np.ndarray, " images"]] = {}
    for (explainer, measured), scores in results.scores.items():
        shared = [image for image in scores if image in of_reference]
        if measured == metric and explainer != reference and shared:
            differences[explainer] = np.array([scores[i] - of_reference[i] for i in shared])
    p = holm({name: sign_flip(values, seed) for name, values in differences.items()})
    return {
        name: Paired(float(values.mean()), interval(values, seed), p[name], len(values))
        for name, values in differences.items()
    }


def sign_flip(differences: Float[np.ndarray, " images"], seed: int) -> float:
    """How often random signs give a mean at least as far from 0; never below 1 / 10,001.

    If two explainers do equally well, each difference could as well have the other sign.
    """
    generator = np.random.default_rng(seed)
    count = len(differences)
    observed = abs(differences.mean())
    rounding = 1e-9 * np.abs(differences).max()
    chunk = max(1, AT_ONCE // count)
    as_far = 0
    for first in range(0, FLIPS, chunk):
        shape = (min(chunk, FLIPS - first), count)
        signs = generator.integers(0, 2, shape, dtype=np.int8) * 2 - 1
        as_far += int((np.abs(signs @ differences / count) >= observed - rounding).sum())
    return (as_far + 1) / (FLIPS + 1)


def holm(p: Mapping[str, float]) -> dict[str, float]:
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
