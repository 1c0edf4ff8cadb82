"""The sanity check of Adebayo et al. (2018): a map must die with the classifier's weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.metrics.ncc import correlate_rows
from apercu.metrics.record import Metric
from apercu.types import Images, Maps, Scores, Targets


def randomisation(
    explainer: Callable[[Classifier, Images, Targets], Maps],
    classifier: Classifier,
    images: Images,
    targets: Targets,
    seed: int = 0,
    *,
    before: Maps | None = None,
) -> Scores:
    """How much of each map survives when all weights are random, 0 to 1; lower is better.

    Spearman's rank correlation of the maps before and after, without its sign: a map turned
    upside down has not died either. A map that does not change at all scores 1, be it constant;
    else one that is constant before or after scores 0. The classifier is not touched. `before` are
    the maps of the untouched classifier where they are known already.

    Raises:
        ClassifierError: the weights cannot be reached.
    """
    if before is None:
        before = explainer(classifier, images, targets).detach()
    after = explainer(randomise_weights(classifier, seed), images, targets).detach()
    unmoved = (before == after).flatten(1).all(dim=1)
    return torch.where(unmoved, 1.0, spearman(before.flatten(1), after.flatten(1)).abs())


def randomise_weights(classifier: Classifier, seed: int = 0) -> Classifier:
    """A copy whose every parameter is drawn anew, normal with that parameter's mean and spread.

    What is counted rather than learned (running statistics) stays.

    Raises:
        ClassifierError: the weights cannot be reached.
    """
    if classifier.module is None:
        raise ClassifierError(
            f"randomisation: {classifier.spec} does not show its weights; "
            "leave this metric out, or open the classifier from its network"
        )
    generator = torch.Generator().manual_seed(seed)
    module: nn.Module = copy.deepcopy(classifier.module)
    with torch.no_grad():
        for parameter in module.parameters():
            spread, mean = torch.std_mean(parameter, correction=0)
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn.to(parameter) * spread + mean)
    digest = f"{classifier.network.digest}, randomised with seed {seed}"
    network = replace(classifier.network, forward=module, digest=digest)
    return Classifier(network, spec=classifier.spec)


def spearman(one: Float[Tensor, "batch n"], other: Float[Tensor, "batch n"]) -> Scores:
    """Rank correlation, row by row, equal values sharing their mean rank; 0 for constant rows."""
    return correlate_rows(_rank_rows(one), _rank_rows(other))


def _rank_rows(rows: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Places in ascending order; equal values get the mean of theirs."""
    rows = rows.contiguous()
    ordered = rows.sort(dim=1).values
    first = torch.searchsorted(ordered, rows)
    last = torch.searchsorted(ordered, rows, right=True) - 1
    return (first + last).to(rows) / 2


def _score_with_seed(
    explainer: Callable[[Classifier, Images, Targets], Maps],
    classifier: Classifier,
    images: Images,
    targets: Targets,
    maps: Maps,
    seed: int,
) -> Scores:
    return randomisation(explainer, classifier, images, targets, seed, before=maps)


RANDOMISATION = Metric(
    name="randomisation",
    function=_score_with_seed,
    takes=("explain_again", "classifier", "images", "targets", "maps", "seed"),
    better="lower",
    title="Randomisation",
    phrase="randomisation",
    meaning="rank correlation that survives random weights in the classifier",
)
