"""Randomisation (Adebayo et al. 2018): a map must change when the weights become random."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from apercu.classifiers import Classifier
from apercu.classifiers.names import Target, choose_targets
from apercu.errors import ClassifierError
from apercu.metrics.record import Metric
from apercu.statistics import spearman
from apercu.types import Images, Maps, Scores, Targets


def randomisation(
    explainer: Callable[[Classifier, Images, Targets], Maps],
    classifier: Classifier,
    images: Images,
    targets: Target,
    seed: int = 0,
    *,
    before: Maps | None = None,
) -> Scores:
    """Return how much of each map remains when all weights are random, 0 to 1; lower is better.

    The score is the absolute value of Spearman's rank correlation of the maps before and after: an
    inverted map still depends on nothing that was learnt. A map that does not change at all scores
    1, also when it is constant; otherwise a map that is constant before or after scores 0. The
    classifier itself is not changed.

    Args:
        explainer: a function of classifier, images and targets that gives maps.
        classifier: the classifier that is explained.
        images: images, `batch × channels × height × width`.
        targets: one class for all images or one per image; None for the predicted classes.
        seed: the seed of the random weights.
        before: the maps of the original classifier, where they are known already.

    Returns:
        One score per image.

    Raises:
        ClassifierError: the weights cannot be reached.
    """
    targets = choose_targets(classifier, images, targets)
    if before is None:
        before = explainer(classifier, images, targets).detach()
    after = explainer(randomise_weights(classifier, seed), images, targets).detach()
    unchanged = (before == after).flatten(1).all(dim=1)
    return torch.where(unchanged, 1.0, spearman(before.flatten(1), after.flatten(1)).abs())


def randomise_weights(classifier: Classifier, seed: int = 0) -> Classifier:
    """Return a copy of a classifier with random weights.

    Each parameter is drawn from a normal distribution with the mean and the standard deviation of
    that parameter. Running statistics stay.

    Raises:
        ClassifierError: the weights cannot be reached.
    """
    if classifier.module is None:
        raise ClassifierError(
            f"randomisation: {classifier.spec} has no weights that can be reached; "
            "leave this metric out, or open the classifier from its network"
        )
    generator = torch.Generator().manual_seed(seed)
    module: nn.Module = copy.deepcopy(classifier.module)
    with torch.no_grad():
        for parameter in module.parameters():
            std, mean = torch.std_mean(parameter, correction=0)
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise.to(parameter) * std + mean)
    digest = f"{classifier.network.digest}, randomised with seed {seed}"
    network = replace(classifier.network, forward=module, digest=digest, guard=None)
    return Classifier(network, spec=classifier.spec)


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
    meaning="rank correlation that survives random weights in the classifier, 0 to 1",
)
