"""Explainers that change an image until the classifier changes its decision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.classifiers.names import Target
from apercu.errors import ImagesError, TargetError
from apercu.explainers.base import ImagesLike, TrainedExplainer
from apercu.explainers.settings import ExplainerSettings
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.data import TrainingImages, iterate_batches, report_batches
from apercu.types import Images, Logits, Maps, Scores, Targets

N = TypeVar("N", bound=nn.Module)
S = TypeVar("S", bound=ExplainerSettings)
C = TypeVar("C")

STRIP_LENGTH = 7
"""Pictures of a strip, both ends included."""
MIN_SUCCESS = 0.5
"""Fraction of kept and of flipped decisions below which counterparts do not look trained."""
STRONG_FRACTION = 0.25
"""Fraction of its peak above which a difference counts as being there."""


@dataclass(frozen=True, eq=False)
class Counterparts:
    """Two images for each image: one that is predicted as the image is, and one that is not.

    Attributes:
        stable: images that are predicted as the image is: the image itself, or close to it.
        adversarial: images that are meant to be predicted as the target.
        predicted: the class of each stable image.
        target: the class that each adversarial image is meant to have.
        between: images on the way from stable to adversarial, in order, without the two.
    """

    stable: Images
    adversarial: Images
    predicted: Targets
    target: Targets
    between: tuple[Images, ...] | None = None

    @property
    def difference(self) -> Images:
        """The adversarial images minus the stable ones."""
        return self.adversarial - self.stable

    @property
    def maps(self) -> Maps:
        """How much each pixel changes: the mean over the channels of the absolute difference."""
        return self.difference.abs().mean(1)

    @property
    def strip(self) -> Float[Tensor, "steps batch channels height width"]:
        """All images from stable to adversarial, interpolated linearly where none are known."""
        if self.between is not None:
            return torch.stack([self.stable, *self.between, self.adversarial])
        fractions = torch.linspace(0, 1, STRIP_LENGTH).tolist()
        return torch.stack([torch.lerp(self.stable, self.adversarial, f) for f in fractions])


@dataclass(frozen=True, eq=False)
class EncodedImages(Generic[C]):
    """Images as a network encodes them before it changes them.

    Attributes:
        images: the images.
        codes: features or codes of the images.
        logits: the network's estimate of the classifier's logits.
    """

    images: Images
    codes: C
    logits: Logits


class CounterfactualExplainer(TrainedExplainer[N, S], ABC, Generic[N, S, C]):
    """A trained explainer that changes an image until it is predicted as another class."""

    @torch.inference_mode()
    def attribute(self, inputs: ImagesLike, target: Target = None) -> Maps:
        """Return how much each pixel would have to change for the class to be lost, or gained.

        Args:
            inputs: the images.
            target: the class in question; None takes the class that the explainer predicts. An
                image that is predicted as it loses it to the runner-up; any other image gains it.

        Returns:
            Maps, `batch × height × width`: the mean absolute change over the channels.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, or not one target per image.
        """
        encoded = self._encode(self._prepare_batch(inputs))
        predicted = encoded.logits.argmax(1)
        targets = second = runner_up(encoded.logits, predicted)
        if target is not None:
            named = self._resolve_targets(target, len(predicted))
            targets = torch.where(named == predicted, second, named)
        return self._generate(encoded, encoded.logits, targets).maps

    @torch.inference_mode()
    def counterparts(
        self, inputs: ImagesLike, target: Target = None, *, logits: Logits | None = None
    ) -> Counterparts:
        """Return each image as it is predicted, and as it would be predicted as another class.

        Args:
            inputs: the images.
            target: the class that the adversarial images should have; None takes the runner-up.
            logits: the classifier's logits, where they are known; else the explainer's own estimate
                is used.

        Returns:
            The two images of each image.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, not one target per image, or an image is predicted
                as its target already.
        """
        encoded = self._encode(self._prepare_batch(inputs))
        logits = encoded.logits if logits is None else logits.to(self.device)
        predicted = logits.argmax(1)
        if target is None:
            return self._generate(encoded, logits, runner_up(logits, predicted))
        targets = self._resolve_targets(target, len(predicted))
        if (same := (targets == predicted).nonzero()).numel():
            name = self.classes[int(predicted[same[0, 0]])]
            raise TargetError(
                f"target: the image is predicted as {name} already; choose another class"
            )
        return self._generate(encoded, logits, targets)

    @torch.inference_mode()
    def predict_logits(self, inputs: ImagesLike) -> Logits:
        """Return the explainer's own estimate of the classifier's logits, `batch × classes`.

        Raises:
            ImageError: the images have another size or number of channels.
        """
        return self._encode(self._prepare_batch(inputs)).logits

    @abstractmethod
    def _encode(self, images: Images) -> EncodedImages[C]:
        """Return the codes that `_generate` needs, and estimated logits."""

    @abstractmethod
    def _generate(
        self, encoded: EncodedImages[C], logits: Logits, targets: Targets
    ) -> Counterparts:
        """Return the counterparts of images with these logits, as the target classes."""


def runner_up(logits: Logits, predicted: Targets) -> Targets:
    """Return the class with the second highest logit of each image."""
    return exclude_class(logits, predicted).argmax(1)


def exclude_class(logits: Logits, predicted: Targets) -> Logits:
    """Return logits in which that of each image's predicted class is −∞."""
    return logits.scatter(1, predicted[:, None], -torch.inf)


@torch.inference_mode()
def measure_counterparts(
    explainer: CounterfactualExplainer[Any, Any, Any],
    classifier: Classifier,
    batches: Iterable[Images],
) -> dict[str, float]:
    """Measure how often counterparts keep and change the decision as they should.

    Args:
        explainer: the explainer.
        classifier: the explained classifier.
        batches: images in [0, 1] at the classifier's size.

    Returns:
        Fractions of images whose stable counterpart keeps the decision (`kept`), and whose
        adversarial one is predicted as the runner-up (`flipped`); see also `measure_difference`.

    Raises:
        ImagesError: there are no images.
    """
    rows: list[dict[str, Tensor]] = []
    for images in batches:
        images = images.to(classifier.device)
        logits = classifier(images)
        predicted = logits.argmax(1)
        targets = runner_up(logits, predicted)
        pair = explainer.counterparts(images, targets, logits=logits)
        rows += [
            {
                "kept": (classifier(pair.stable).argmax(1) == predicted).float().mean(),
                "flipped": (classifier(pair.adversarial).argmax(1) == targets).float().mean(),
                **measure_difference(pair.maps),
                "weight": torch.tensor(float(len(images))),
            }
        ]
    if not rows:
        raise ImagesError("counterparts: expected at least one image to measure them on")
    weights = torch.stack([row.pop("weight") for row in rows])
    fractions = weights / weights.sum()
    return {
        name: float(torch.stack([row[name].cpu() for row in rows]) @ fractions) for name in rows[0]
    }


def measure_difference(difference: Maps) -> dict[str, Tensor]:
    """Measure the size of differences between two images.

    Args:
        difference: the absolute difference of each pixel.

    Returns:
        Means over images of the mean (`change`), of the largest value (`peak`), and of the fraction
        of the pixels where the difference is strong (`spread`).
    """
    peak = difference.amax((1, 2))
    strong = difference > STRONG_FRACTION * peak[:, None, None]
    scores: dict[str, Scores] = {
        "change": difference.mean((1, 2)),
        "peak": peak,
        "spread": strong.float().mean((1, 2)),
    }
    return {name: values.mean() for name, values in scores.items()}


def measure_on_held_out(
    explainer: CounterfactualExplainer[Any, Any, Any],
    classifier: Classifier,
    images: TrainingImages,
    run: Path,
    seed: int,
    report: ProgressCallback = ignore_progress,
) -> dict[str, float]:
    """Measure the counterparts of images held out from training.

    Args:
        explainer: the trained explainer.
        classifier: the explained classifier itself, not its student.
        images: the images held out.
        run: not used; nothing is written.
        seed: not used; nothing is drawn.
        report: receives the name of the work, the images that are done, and the images in all.

    Returns:
        What was measured, by name.
    """
    count = len(images)
    batches = report_batches(iterate_batches(images, count), "measuring images", count, report)
    facts = measure_counterparts(explainer, classifier, batches)
    return {**facts, "measured_images": float(count)}


def find_doubts(facts: Mapping[str, float]) -> list[str]:
    """Return why counterparts do not look trained, from what was measured on images held out.

    Images that are not changed keep every decision and flip none.

    Args:
        facts: what was measured, by name.

    Returns:
        One phrase for each reason.
    """
    doubts = []
    if facts["flipped"] < MIN_SUCCESS:
        doubts.append(f"adversarial images flip the decision in {facts['flipped']:.0%} of cases")
    if facts["kept"] < MIN_SUCCESS:
        doubts.append(f"similar images keep the decision in {facts['kept']:.0%} of cases")
    return doubts
