"""Unlabelled images of another domain: their rotation is predicted, and classes must not turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn

from apercu.classifiers.decisions import Decision
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork, NetworkOutputs
from apercu.learning.recipes.base import Recipe, Task, TrainingStep, measure_variety
from apercu.types import Images, Logits, Scores

VARIETY, ROTATIONS = "domain_adaptation_variety", "domain_adaptation_rotations"
SMALLEST_VARIETY = 0.1
"""Variety of predictions in the other domain below which they have fallen into one class."""
SMALLEST_ROTATIONS = 0.3
"""Fraction of rotations that are right below which nothing is learnt of them; chance is 1/4."""


@final
class DomainAdaptation(Recipe):
    """Learns another domain from its images without labels (Xiao et al. 2020).

    "Self-supervised Domain Adaptation with Consistency Training" claims accuracies in other domains
    that were the best of their time, on the usual sets, by two tasks beside the labels: the network
    predicts by which right angle an image of either domain was turned, and its classes must not
    change with it. The settings are those of the authors' code for PACS (ResNet-18); there the
    predictions of unlabelled images are made certain, too.

    Ours: the loss of the labels is of images that are not turned. Batch norms end with the
    statistics of the other domain alone, for which the classifier is; on the labelled domain it is
    worse than without the recipe.

    Attributes:
        rotation: weight of the predicted rotation, in either domain.
        consistency: weight of the divergence from the prediction of the image that is not turned.
        entropy: weight of the entropy of predictions in the other domain.
    """

    name: ClassVar[str] = "domain_adaptation"
    needs_unlabelled: ClassVar[bool] = True
    unlabelled_domain: ClassVar[str] = "of another domain"
    adapts_norms: ClassVar[bool] = True
    reads_turns: ClassVar[bool] = True
    watched: ClassVar[tuple[str, ...]] = (VARIETY, ROTATIONS)
    rotation: float = Field(0.7, ge=0)
    consistency: float = Field(0.1, ge=0)
    entropy: float = Field(0.1, ge=0)

    def check_task(self, task: Task) -> None:
        height, width = task.start.size
        if height != width:
            raise ConfigError(
                "recipe: domain_adaptation: expected a network for square images, as they are "
                f"turned, got {width} × {height}"
            )

    def change_network(self, network: LearningNetwork, task: Task) -> None:
        image = task.start.normalise(task.images[0][None].to(task.device))
        training = network.training
        with torch.no_grad():
            features = network.to(task.device).eval().compute_outputs(image).features
        network.train(training)
        network.parts[self.name] = nn.Linear(features.shape[1], 4)

    def compute_losses(self, step: TrainingStep) -> dict[str, Scores]:
        if step.unlabelled is None:
            raise ConfigError("recipe: domain_adaptation: expected images without labels")
        views = step.draw_views(step.unlabelled)
        outputs = step.compute_outputs(views)
        decision, head = step.task.decision, step.network.parts[self.name]
        terms: dict[str, Scores] = {}
        sources = {"labelled": (step.images, step.outputs), "unlabelled": (views, outputs)}
        for name, (images, upright) in sources.items():
            turns = torch.randint(4, (len(images),), generator=step.generator).to(images.device)
            turned: NetworkOutputs = step.compute_outputs(turn_images(images, turns))
            logits = head(turned.features)
            terms[f"{name}_rotation"] = self.rotation * F.cross_entropy(
                logits, turns, reduction="none"
            )
            terms[f"{name}_consistency"] = self.consistency * measure_divergence(
                decision, turned.logits, upright.logits.detach()
            )
        step.figures[ROTATIONS] = (logits.argmax(1) == turns).float().mean()
        step.figures[VARIETY] = measure_variety(
            decision.find_predicted(outputs.logits), step.targets
        )
        probabilities = decision.probabilities(outputs.logits)
        terms["entropy"] = self.entropy * decision.cross_entropy(outputs.logits, probabilities)
        return terms

    def describe_failure(self, means: Mapping[str, float]) -> str | None:
        if means.get(VARIETY, 1.0) < SMALLEST_VARIETY:
            return (
                f"nearly all images of the other domain are predicted as one class (variety "
                f"{means[VARIETY]:.2f}, 1 is as among the labels); lower its entropy, or check "
                "that the unlabelled images hold all classes"
            )
        if means.get(ROTATIONS, 1.0) < SMALLEST_ROTATIONS:
            return (
                f"rotations of the other domain are not learnt ({means[ROTATIONS]:.2f} right, 0.25 "
                "is chance); images without an upright direction have none to learn"
            )
        return None


def turn_images(images: Images, turns: Int[Tensor, " batch"]) -> Images:
    """Turn each image by so many right angles."""
    pairs = zip(images, turns.tolist(), strict=True)
    return torch.stack([image.rot90(times, (1, 2)) for image, times in pairs])


def measure_divergence(decision: Decision, logits: Logits, expected: Logits) -> Scores:
    """Return the Kullback-Leibler divergence from expected predictions, one number per image."""
    probabilities = decision.probabilities(expected)
    entropy = decision.cross_entropy(expected, probabilities)
    return decision.cross_entropy(logits, probabilities) - entropy
