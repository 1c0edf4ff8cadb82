"""Average drop, increase and drop in deletion (Chattopadhay et al. 2018, Jung & Oh 2021).

The map is stretched to [0, 1] and multiplied with the image, and the classifier's probability is
compared with that of the whole image. A constant map is stretched to 0: the image becomes black.
"""

from __future__ import annotations

import torch
from torch import Tensor

from apercu.classifiers.names import Target, choose_targets
from apercu.maps import min_max_scale
from apercu.metrics.flipping import target_probability
from apercu.metrics.record import Metric
from apercu.removal import Black
from apercu.statistics import divide_or
from apercu.types import Images, LogitsFn, Maps, Scores


def average_drop(classifier: LogitsFn, images: Images, targets: Target, maps: Maps) -> Scores:
    """Return the fraction of the target's probability that is lost; lower is better.

    The image is multiplied with the map. The scores lie between 0 and 1.

    Args:
        classifier: the classifier that is explained.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: the class of each image, or one for all.
        maps: maps, `batch × height × width`, of any scale.

    Returns:
        One score per image.
    """
    whole, masked = _compute_probabilities(classifier, images, targets, min_max_scale(maps))
    return divide_or((whole - masked).clamp(min=0), whole)


def increase(classifier: LogitsFn, images: Images, targets: Target, maps: Maps) -> Scores:
    """Return 1 where the target's probability grows, else 0; higher is better.

    The image is multiplied with the map.

    Args:
        classifier: the classifier that is explained.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: the class of each image, or one for all.
        maps: maps, `batch × height × width`, of any scale.

    Returns:
        One score per image.
    """
    whole, masked = _compute_probabilities(classifier, images, targets, min_max_scale(maps))
    return (masked > whole).to(masked.dtype)


def drop_in_deletion(classifier: LogitsFn, images: Images, targets: Target, maps: Maps) -> Scores:
    """Return the fraction of the probability that is lost without the evidence; higher is better.

    The image is multiplied with 1 − map. The score is negative where the probability grows. For a
    constant map nothing is removed and the score is 0.

    Args:
        classifier: the classifier that is explained.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: the class of each image, or one for all.
        maps: maps, `batch × height × width`, of any scale.

    Returns:
        One score per image.
    """
    whole, remaining = _compute_probabilities(classifier, images, targets, 1 - min_max_scale(maps))
    return divide_or(whole - remaining, whole)


def _compute_probabilities(
    classifier: LogitsFn, images: Images, targets: Target, masks: Maps
) -> tuple[Tensor, Tensor]:
    """Return the target's probability for the image, and for the image times the mask."""
    targets = choose_targets(classifier, images, targets)
    with torch.no_grad():
        whole = target_probability(classifier, images, targets)
        return whole, target_probability(classifier, Black()(images, masks), targets)


AVERAGE_DROP = Metric(
    name="average_drop",
    function=average_drop,
    takes=("classifier", "images", "targets", "maps"),
    better="lower",
    title="Average drop",
    phrase="average drop",
    meaning="fraction of the probability that is lost when only the evidence is seen",
)
INCREASE = Metric(
    name="increase",
    function=increase,
    takes=("classifier", "images", "targets", "maps"),
    better="higher",
    title="Increase",
    phrase="increase",
    meaning="fraction of the images whose probability grows when only it is seen",
)
