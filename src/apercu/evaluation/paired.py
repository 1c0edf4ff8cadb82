"""Whether two explainers differ on the same images, beyond chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from apercu.evaluation.results import ComparisonResults
from apercu.statistics import adjust_holm, bootstrap_interval, sign_flip_test

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
