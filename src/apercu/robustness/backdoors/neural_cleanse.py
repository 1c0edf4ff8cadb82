"""Neural Cleanse: the smallest trigger that turns all images into a class, for every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.filters.checks import check_count, check_fraction, check_positive, check_whole
from apercu.option_strings import MAX_SEED
from apercu.progress import ProgressCallback, ignore_progress
from apercu.types import Images, Picture

WORKS = 0.9
"""Fraction of images that a reconstructed trigger has to turn before it counts as one."""
OUTLIER = 2.0
"""Anomaly index above which a class is suspicious (the paper's)."""
TO_DEVIATION = 1.4826
"""Factor from the median absolute deviation to the standard deviation of normal numbers."""
WINDOW = 10
"""Steps over which the success of a trigger is averaged before its weight changes."""
FASTER_DOWN = 1.5
"""Exponent by which the weight of the size falls faster than it rises (the paper's code)."""


@dataclass(frozen=True, eq=False)
class ReversedTrigger:
    """The smallest trigger that was computed for a class.

    Attributes:
        target: class index.
        mask: opacity of the trigger in each pixel, in [0, 1].
        pattern: colours of the trigger, `channels × height × width`.
        size: sum of the mask, in pixels.
        success: fraction of the images that become the class with it.
    """

    target: int
    mask: Float[Tensor, "height width"]
    pattern: Picture
    size: float
    success: float

    def stamp(self, images: Images) -> Images:
        """Put the trigger on images, `batch × channels × height × width`."""
        return blend(images, self.mask, self.pattern)


@final
@dataclass(frozen=True)
class NeuralCleanse:
    """Reconstructs a minimal trigger for every class, and looks for a class with a far smaller one.

    After Wang et al. (2019). The claim: of a class that is the target of a backdoor, the mask that
    turns all images into it has a far smaller L1 norm than those of the other classes; its
    anomaly index, the distance from the median in units of the median absolute deviation times
    1.4826, is above 2. As in the paper's code, the weight of the norm rises while the trigger
    works on `success` of the images and falls faster while it does not. Our choices: a fixed number
    of steps, no early end, and the smallest mask that worked over ten steps is kept.

    Args:
        steps: number of steps of Adam for each class.
        rate: learning rate.
        batch: images of each step.
        weight: first weight of the size of the mask.
        growth: factor by which the weight changes.
        success: fraction of images that a trigger has to turn.
        seed: seed of the first trigger and of the batches.
    """

    steps: int = 300
    rate: float = 0.1
    batch: int = 32
    weight: float = 0.01
    growth: float = 1.5
    success: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self.steps, "neural_cleanse: steps")
        check_count(self.batch, "neural_cleanse: batch")
        check_positive("neural_cleanse", rate=self.rate, weight=self.weight, growth=self.growth)
        check_fraction(self.success, "neural_cleanse: success")
        check_whole("neural_cleanse", 0, MAX_SEED, seed=self.seed)

    def __call__(
        self,
        classifier: Classifier,
        images: Images,
        report: ProgressCallback = ignore_progress,
    ) -> list[ReversedTrigger]:
        """Reconstruct the trigger of every class.

        Args:
            classifier: classifier with gradients.
            images: clean images, `batch × channels × height × width`.
            report: receives the number of finished classes.

        Returns:
            One trigger for each class, in the order of the classes.

        Raises:
            ClassifierError: the classifier has no gradients, or fewer than three classes.
        """
        check_comparable(classifier)
        count = len(classifier.classes)
        triggers = []
        for target in range(count):
            report("neural cleanse", target, count)
            triggers.append(self.reverse(classifier, images, target))
        report("neural cleanse", count, count)
        return triggers

    def reverse(self, classifier: Classifier, images: Images, target: int) -> ReversedTrigger:
        """Compute the smallest trigger that turns images into one class.

        Args:
            classifier: classifier with gradients.
            images: clean images, `batch × channels × height × width`.
            target: class index.

        Returns:
            The smallest trigger that works; the last one where none does.
        """
        generator = Generator().manual_seed(self.seed)
        mask_shape, pattern_shape = images.shape[2:], images.shape[1:]
        parameters = [
            (4 * torch.rand(shape, generator=generator) - 2).to(images.device).requires_grad_()
            for shape in (mask_shape, pattern_shape)
        ]
        optimiser = torch.optim.Adam(parameters, self.rate, betas=(0.5, 0.9))
        weight, successes, smallest = self.weight, [], float("inf")
        best: list[Tensor] = []
        for _ in range(self.steps):
            rows = torch.randint(len(images), (self.batch,), generator=generator)
            mask, pattern = (values.sigmoid() for values in parameters)
            logits = classifier(blend(images[rows.to(images.device)], mask, pattern))
            targets = torch.full((len(logits),), target, device=logits.device)
            loss = classifier.decision.target_cross_entropy(logits, targets).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss + weight * mask.sum())
            turned = classifier.decision.is_predicted(logits, targets)
            successes.append(float(turned.float().mean()))
            works = len(successes) >= WINDOW and np.mean(successes[-WINDOW:]) >= self.success
            size = float(mask.detach().sum())
            if works and size < smallest:
                smallest = size
                best = [mask.detach().clone(), pattern.detach().clone()]
            optimiser.step()
            if len(successes) % WINDOW == 0:
                weight *= self.growth if works else self.growth**-FASTER_DOWN
        if not best:
            best = [values.detach().sigmoid() for values in parameters]
        return _measure_trigger(classifier, images, target, *best)


@torch.no_grad()
def _measure_trigger(
    classifier: Classifier, images: Images, target: int, mask: Tensor, pattern: Tensor
) -> ReversedTrigger:
    """Measure the success of a trigger on all images."""
    targets = torch.full((len(images),), target, device=images.device)
    turned = classifier.decision.is_predicted(classifier(blend(images, mask, pattern)), targets)
    return ReversedTrigger(
        target, mask.cpu(), pattern.cpu(), float(mask.sum()), float(turned.float().mean())
    )


def blend(images: Images, mask: Float[Tensor, "height width"], pattern: Picture) -> Images:
    """Lay a pattern over images, `(1 − mask) · image + mask · pattern`."""
    mask, pattern = mask.to(images), pattern.to(images)
    return (1 - mask) * images + mask * pattern


def compute_anomaly_indices(sizes: Sequence[float]) -> list[float]:
    """Return the distance of each size from the median, in robust standard deviations.

    Sizes below the median get a positive index, sizes above a negative one.

    >>> [round(index, 2) for index in compute_anomaly_indices([10.0, 11.0, 9.0, 10.0, 2.0])]
    [0.0, -0.67, 0.67, 0.0, 5.4]
    """
    values = np.asarray(sizes, dtype=float)
    distances = np.median(values) - values
    spread = TO_DEVIATION * float(np.median(np.abs(distances)))
    if spread == 0:
        return np.where(distances == 0, 0.0, np.copysign(np.inf, distances)).tolist()
    return (distances / spread).tolist()


def check_comparable(classifier: Classifier) -> None:
    """Refuse a classifier whose classes have no triggers that can be compared.

    Raises:
        ClassifierError: the classifier has no gradients, or fewer than three classes.
    """
    if not classifier.differentiable:
        raise ClassifierError(
            f"neural_cleanse: needs gradients, and {classifier.spec} has none"
            f"{classifier.gradient_reason}; use strip, or evidence with an explainer"
        )
    if (count := len(classifier.classes)) < 3:
        raise ClassifierError(
            f"neural_cleanse: compares the triggers of at least 3 classes, and {classifier.spec} "
            f"has {count}; use strip or evidence"
        )
