"""A teacher that is the mean of past weights, and features that gather with their neighbours."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Recipe, Task, TrainingStep, measure_variety
from apercu.types import Images, Logits, Scores

VARIETY, SPREAD = "mean_teacher_variety", "mean_teacher_spread"
SMALLEST_VARIETY = 0.1
"""Variety of the teacher's predictions below which they have fallen into one class."""
SMALLEST_SPREAD = 1e-3
"""Spread of features below which all images have nearly the same ones."""
RAMP = 5.0
"""The weight of a term rises like exp(-RAMP · (1 - t)²)."""


@final
class MeanTeacher(Recipe):
    """Follows the mean of its past weights, with local clusters of features (Chen et al. 2020).

    "Local Clustering with Mean Teacher for Semi-supervised Learning" claims that a mean teacher
    (Tarvainen and Valpola 2017), whose weights are the moving average of the student's and whose
    predictions for other views the student must meet, repeats its own mistakes, and that pulling
    neighbouring features together moves wrong ones to the dense region of their class: better than
    the mean teacher alone on SVHN and CIFAR-10.

    As in the authors' code: consistency is the squared difference of probabilities (their weight is
    100 for the mean over ten classes), and pairs of features count with d · exp(-d) of their
    distance, late in the training. Ours: neighbours are the nearest with the same class (true
    where it is known, predicted by the teacher elsewhere) instead of all within a fixed radius,
    distances are relative to their mean in the batch, and the weight of the clusters. The trainer
    keeps its own average of the student's weights for the classifier, as with every recipe.

    Attributes:
        decay: fraction of the teacher's weights that a step keeps.
        consistency: largest weight of the squared difference from the teacher.
        rise: fraction of the training in which that weight rises.
        clustering: largest weight of the distances to neighbours; 0 for the mean teacher alone.
        neighbours: number of neighbours of each unlabelled image.
        start: fraction of the training after which clustering begins; it rises in a tenth.
    """

    name: ClassVar[str] = "mean_teacher"
    needs_unlabelled: ClassVar[bool] = True
    copies_network: ClassVar[bool] = True
    watched: ClassVar[tuple[str, ...]] = (VARIETY, SPREAD)
    decay: float = Field(0.99, ge=0, lt=1)
    consistency: float = Field(10.0, ge=0)
    rise: float = Field(0.2, gt=0, le=1)
    clustering: float = Field(0.3, ge=0)
    neighbours: int = Field(3, ge=1)
    start: float = Field(0.6, ge=0, lt=1)

    def change_network(self, network: LearningNetwork, task: Task) -> None:
        network.parts[self.name] = AveragedTeacher(network)

    def compute_losses(self, step: TrainingStep) -> dict[str, Scores]:
        teacher = step.network.parts[self.name]
        if step.unlabelled is None or not isinstance(teacher, AveragedTeacher):
            raise ConfigError("recipe: mean_teacher: expected images without labels")
        decision, count = step.task.decision, len(step.unlabelled)
        student = step.compute_outputs(step.draw_views(step.unlabelled))
        others = step.draw_views(torch.cat([step.unlabelled, step.stored]))
        taught = teacher.predict(step.network, step.task.start.normalise(others))
        predicted, own = decision.find_predicted(taught).tensor_split([count])
        logits = torch.cat([student.logits, step.outputs.logits])
        differences = decision.probabilities(logits) - decision.probabilities(taught)
        weight = self.consistency * compute_ramp(step.progress / self.rise)
        terms = {"consistency": weight * differences.square().sum(1)}
        features = torch.cat([student.features, step.outputs.features])
        own = torch.where(step.targets.isnan(), own, step.targets > 0.5)
        classes = torch.cat([predicted, own])
        step.figures[VARIETY] = measure_variety(predicted, step.targets)
        step.figures[SPREAD] = measure_spread(features.detach())
        if self.clustering:
            weight = self.clustering * compute_ramp((step.progress - self.start) / 0.1)
            terms["clusters"] = weight * pull_neighbours(features, classes, count, self.neighbours)
        return terms

    @torch.no_grad()
    def finish_step(self, network: LearningNetwork, task: Task, progress: float) -> None:
        teacher = network.parts[self.name]
        if isinstance(teacher, AveragedTeacher):
            teacher.update_weights(network, self.decay)

    def describe_failure(self, means: Mapping[str, float]) -> str | None:
        if means.get(VARIETY, 1.0) < SMALLEST_VARIETY:
            return (
                f"the teacher predicts one class for nearly all unlabelled images (variety "
                f"{means[VARIETY]:.2f}, 1 is as among the labels); lower its consistency, or check "
                "that the unlabelled images hold all classes"
            )
        if means.get(SPREAD, 1.0) < SMALLEST_SPREAD:
            return (
                f"all images have nearly the same features (spread {means[SPREAD]:.4f}); lower "
                "clustering"
            )
        return None


class AveragedTeacher(nn.Module):
    """A network whose weights are the moving average of another network's.

    The mean over all steps comes first, so that the first weights are soon forgotten.

    Args:
        network: the network that it follows.
    """

    steps: Tensor

    def __init__(self, network: LearningNetwork) -> None:
        super().__init__()
        shared = network._start[0]
        kept: dict[int, object] = {id(shared): shared, id(network.parts): nn.ModuleDict()}
        self.network = copy.deepcopy(network, kept).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def predict(self, student: LearningNetwork, images: Images) -> Logits:
        """Return the logits of normalised images; layers normalise as those of the student do."""
        for own, other in zip(
            self.list_layers(self.network), self.list_layers(student), strict=True
        ):
            own.training = other.training
        logits: Logits = self.network(images)
        return logits

    @torch.no_grad()
    def update_weights(self, student: LearningNetwork, decay: float) -> None:
        """Move the weights towards those of the student after a step."""
        self.steps += 1
        keep = min(decay, 1 - 1 / (int(self.steps) + 1))
        own = self.network.named_parameters()
        others = dict(student.named_parameters())
        for name, parameter in own:
            parameter.lerp_(others[name].detach(), 1 - keep)

    @staticmethod
    def list_layers(network: LearningNetwork) -> list[nn.Module]:
        """Return all layers of a network without its parts, in the same order for its copies."""
        kept = (network.front, network.body, network.tail)
        return [layer for each in kept for layer in each.modules()]


def compute_ramp(progress: float) -> float:
    """Return a weight that rises from 0 before `progress` 0 to 1 at 1."""
    if progress <= 0:
        return 0.0
    return math.exp(-RAMP * (1 - min(1.0, progress)) ** 2)


def pull_neighbours(
    features: Float[Tensor, "images features"],
    classes: Bool[Tensor, "images classes"],
    count: int,
    neighbours: int,
) -> Scores:
    """Return the mean of d · exp(-d) over the nearest images with the same classes.

    Args:
        features: features of the unlabelled images, and of the labelled ones behind them.
        classes: classes of the images.
        count: number of unlabelled images, which are pulled.
        neighbours: largest number of neighbours.

    Returns:
        One number per unlabelled image; d is the mean squared difference of the features, divided
        by its mean over all pairs. 0 where no other image has the same classes.
    """
    distances = (features[:count, None] - features[None]).square().mean(2)
    own = torch.eye(count, len(features), dtype=torch.bool, device=features.device)
    scale = distances.detach()[~own].mean().clamp(min=1e-12)
    same = (classes[:count, None] == classes[None]).all(2) & ~own
    relative = distances / scale
    nearest = relative.masked_fill(~same, torch.inf).topk(
        min(neighbours, len(features) - 1), dim=1, largest=False
    )
    is_neighbour = nearest.values.isfinite()
    values = torch.where(is_neighbour, nearest.values, 0.0)
    return (values * (-values).exp()).sum(1) / is_neighbour.sum(1).clamp(min=1)


def measure_spread(features: Float[Tensor, "images features"]) -> Tensor:
    """Return the variance of features around their mean, relative to their mean square."""
    return features.var(0, unbiased=False).sum() / features.square().mean(0).sum().clamp(min=1e-12)
