"""Further targets made from the labels: groups of classes that are easily confused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from apercu.classifiers.distillation_data import stack_images
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Recipe, Task, TrainingStep
from apercu.types import Logits, Scores

NAME = "auxiliary_targets"
PART, MOST = 32, 2048
"""Images that go through the network together; most images that confusions are counted on."""


@final
class AuxiliaryTargets(Recipe):
    """Also learns which group of classes an image belongs to (SSAL; Palacio et al. 2020).

    "Contextual Classification Using Self-Supervised Auxiliary Models for Deep Neural Networks"
    adds branches whose targets are made from the labels themselves, such as groups of similar
    classes, and multiplies the probability of each class with that of its group. It claims, for a
    ResNet-50 on CIFAR-100, an accuracy of 78.9 % without, of 79.7 % where the branches only help in
    the training, and of 80.6 % where they also decide.

    Ours: the groups come from the confusions of a nearest-mean classifier, which leaves each image
    out of its own mean, in the features of the network before the training; the classes that are
    confused most are joined first. Branches begin at the features, with a hidden layer each.

    Attributes:
        groups: numbers of groups, one branch for each; those between 2 and the number of classes
            are used, half of the classes when none is given.
        weight: weight of each branch.
        hidden: width of a branch's hidden layer.
        combine: whether the groups also decide, after the training; the classifier is then no plain
            network of timm.
    """

    name: ClassVar[str] = NAME
    groups: tuple[int, ...] = ()
    weight: float = Field(0.5, gt=0)
    hidden: int = Field(64, ge=1)
    combine: bool = False

    def check_task(self, task: Task) -> None:
        if task.decision.is_multiple:
            raise ConfigError(f"recipe: {NAME}: expected one class per image")
        if len(task.classes) < 3:
            raise ConfigError(
                f"recipe: {NAME}: expected at least 3 classes, which can be put into groups, got "
                f"{len(task.classes)}"
            )
        self.list_counts(len(task.classes))

    def list_counts(self, classes: int) -> tuple[int, ...]:
        """Return the number of groups of each branch; raises ConfigError where one is impossible.

        Args:
            classes: number of classes.

        Returns:
            The numbers.
        """
        counts = self.groups or (max(2, classes // 2),)
        for count in counts:
            if not 2 <= count < classes:
                raise ConfigError(
                    f"recipe: {NAME}: groups: expected 2 to {classes - 1} for {classes} classes, "
                    f"got {count}"
                )
        return counts

    def change_network(self, network: LearningNetwork, task: Task) -> None:
        features, labels = compute_features(network, task)
        confusions = count_confusions(features, labels, len(task.classes))
        network.parts[NAME] = GroupBranches(
            features.shape[1],
            self.hidden,
            [group_classes(confusions, count) for count in self.list_counts(len(task.classes))],
        )

    def compute_losses(self, step: TrainingStep) -> dict[str, Scores]:
        branches = step.network.parts[NAME]
        losses = branches.compute_losses(step.outputs.features, step.targets)
        return {f"groups_{index}": self.weight * each for index, each in enumerate(losses)}

    def fold_network(self, network: LearningNetwork) -> None:
        if self.combine:
            network.set_head(HeadWithGroups(network.head, network.parts[NAME]).eval())


@final
class GroupBranches(nn.Module):
    """Branches from the features to the logits of groups of classes.

    Args:
        features: number of features.
        hidden: width of the hidden layers.
        groups: number of the group of each class, one list per branch.
    """

    def __init__(self, features: int, hidden: int, groups: Sequence[Int[Tensor, " classes"]]):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, int(each.max()) + 1)
            )
            for each in groups
        )
        for number, each in enumerate(groups):
            self.register_buffer(f"members_{number}", F.one_hot(each).float())

    def list_members(self) -> list[Float[Tensor, "classes groups"]]:
        """Return, for each branch, 1 where a class is in a group."""
        return [self.get_buffer(f"members_{number}") for number in range(len(self.branches))]

    def compute_losses(
        self, features: Float[Tensor, "batch features"], targets: Float[Tensor, "batch classes"]
    ) -> list[Scores]:
        """Return the cross-entropy of the groups for each branch, one number per image."""
        return [
            -(branch(features).log_softmax(1) * (targets @ members)).sum(1)
            for branch, members in zip(self.branches, self.list_members(), strict=True)
        ]

    def forward(self, features: Float[Tensor, "batch features"]) -> Logits:
        """Return the sum of the log-probabilities of each class's groups, `batch × classes`."""
        return torch.stack(
            [
                branch(features).log_softmax(1) @ members.T
                for branch, members in zip(self.branches, self.list_members(), strict=True)
            ]
        ).sum(0)


@final
class HeadWithGroups(nn.Module):
    """A last layer whose probabilities are multiplied with those of each class's groups.

    Args:
        head: the last layer.
        branches: the branches.
    """

    def __init__(self, head: nn.Module, branches: nn.Module) -> None:
        super().__init__()
        self.head, self.branches = head, branches

    def forward(self, features: Tensor) -> Logits:
        """Return logits of features, `batch × classes`."""
        logits: Logits = self.head(features).flatten(1)
        flat = features.mean((2, 3)) if features.ndim == 4 else features
        combined: Logits = logits + self.branches(flat)
        return combined


@torch.no_grad()
def compute_features(
    network: LearningNetwork, task: Task
) -> tuple[Float[Tensor, "images features"], Int[Tensor, " images"]]:
    """Return the features of labelled images before the training, and their classes, on the CPU."""
    order = torch.randperm(len(task.images), generator=task.make_generator(NAME))[:MOST]
    is_training = network.training
    network.to(task.device).eval()
    parts = [
        network.compute_outputs(
            task.start.normalise(stack_images(task.images, rows).to(task.device))
        ).features.cpu()
        for rows in order.split(PART)
    ]
    network.train(is_training)
    return torch.cat(parts), task.targets[order].argmax(1)


def count_confusions(
    features: Float[Tensor, "images features"], labels: Int[Tensor, " images"], classes: int
) -> Float[Tensor, "classes classes"]:
    """Return how often each class is taken for another one by the nearest mean of a class.

    Args:
        features: features of labelled images.
        labels: class of each image.
        classes: number of classes.

    Returns:
        Mean probability of each class (columns) for the images of a class (rows), where each image
        is left out of the mean of its own class.
    """
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    members = F.one_hot(labels, classes).to(features)
    counts = members.sum(0)
    sums = members.T @ features
    means = sums / counts.clamp(min=1)[:, None]
    distances = torch.cdist(features, means).square()
    own = (sums[labels] - features) / (counts[labels] - 1).clamp(min=1)[:, None]
    distances[torch.arange(len(labels)), labels] = (features - own).square().sum(1)
    probabilities = (-distances / distances.mean()).softmax(1)
    return members.T @ probabilities / counts.clamp(min=1)[:, None]


def group_classes(
    confusions: Float[Tensor, "classes classes"], count: int
) -> Int[Tensor, " classes"]:
    """Put classes into groups, so that those that are confused most are together.

    Args:
        confusions: how often each class (rows) is taken for each class (columns).
        count: number of groups.

    Returns:
        The number of the group of each class.
    """
    likeness = confusions + confusions.T
    groups = [[number] for number in range(len(confusions))]
    while len(groups) > count:
        pairs = [(a, b) for a in range(len(groups)) for b in range(a)]
        a, b = max(
            pairs,
            key=lambda pair: float(likeness[groups[pair[0]]][:, groups[pair[1]]].mean()),
        )
        groups[b] += groups.pop(a)
    numbers = torch.zeros(len(confusions), dtype=torch.long)
    for number, group in enumerate(sorted(groups, key=min)):
        numbers[group] = number
    return numbers
