"""Further targets made from the labels: groups of classes that are easily confused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from apercu.classifiers.distillation_data import stack_images
from apercu.classifiers.reinitialise import NetworkSource
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Recipe, Task, TrainingStep
from apercu.learning.recipes.described import (
    BUILDERS,
    DescribedHead,
    build_inner,
    check_numbers,
    describe_inner,
)
from apercu.types import Logits, Scores

NAME = "auxiliary_targets"
FACTORY = BUILDERS[NAME]
"""What a card names as the source of a network whose groups decide, too."""
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
        combine: whether the groups also decide, after the training; the branches then stay in the
            last layer.
    """

    name: ClassVar[str] = NAME
    wraps_head: ClassVar[bool] = True
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
        network.parts[NAME] = nn.ModuleList(
            GroupBranch(
                features.shape[1], self.hidden, F.one_hot(group_classes(confusions, count)).float()
            )
            for count in self.list_counts(len(task.classes))
        )

    def compute_losses(self, step: TrainingStep) -> dict[str, Scores]:
        branches: Any = step.network.parts[NAME]
        features = step.outputs.features
        return {
            f"groups_{number}": self.weight * branch.compute_loss(features, step.targets)
            for number, branch in enumerate(branches)
        }

    def fold_network(self, network: LearningNetwork) -> None:
        branches: Any = network.parts[NAME]
        if self.combine:
            network.set_head(HeadWithGroups(network.head, branches).eval())


@final
class GroupBranch(nn.Module):
    """A branch from the features to groups of classes.

    Args:
        features: number of features.
        hidden: width of the hidden layer.
        members: 1 where a class is in a group.
    """

    members: Float[Tensor, "classes groups"]

    def __init__(
        self, features: int, hidden: int, members: Float[Tensor, "classes groups"]
    ) -> None:
        super().__init__()
        self.register_buffer("members", members)
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, members.shape[1])
        )

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch groups"]:
        """Return the log-probability of each group, `batch × groups`."""
        logs: Tensor = self.layers(features).log_softmax(1)
        return logs

    def compute_loss(
        self, features: Float[Tensor, "batch features"], targets: Float[Tensor, "batch classes"]
    ) -> Scores:
        """Return the cross-entropy of the groups, one number per image."""
        return -(self(features) * (targets @ self.members)).sum(1)


@final
class HeadWithGroups(DescribedHead):
    """A last layer whose probabilities are multiplied with those of each class's groups.

    Args:
        head: the last layer.
        branches: the branches.
    """

    shift: Float[Tensor, " classes"]

    def __init__(self, head: nn.Module, branches: Iterable[GroupBranch]) -> None:
        super().__init__()
        self.head, self.branches = head, nn.ModuleList(branches)
        members: Any = self.branches[0].members
        self.register_buffer("shift", torch.zeros_like(members[:, 0]))

    def describe_source(self, source: NetworkSource, name: str) -> NetworkSource | None:
        named = describe_inner(source)
        if named is None:
            return None
        first: Any = self.branches[0].layers[0]  # type: ignore[index]
        branches: Any = self.branches
        options = named | {
            "head": name,
            "features": first.in_features,
            "hidden": first.out_features,
            "classes": len(self.shift),
            "groups": [branch.members.shape[1] for branch in branches],
        }
        return NetworkSource(FACTORY, options, source.input)

    def add_to_logits(self, summands: Float[Tensor, " classes"]) -> None:
        self.shift += summands

    def forward(self, features: Tensor) -> Logits:
        """Return logits of features, `batch × classes`."""
        logits: Tensor = self.head(features).flatten(1)
        flat = features.mean((2, 3)) if features.ndim == 4 else features
        for branch in self.branches:
            logits = logits + branch(flat) @ branch.members.T
        return logits + self.shift


def build_grouped_network(
    library: str,
    model: str,
    options: Mapping[str, Any],
    size: Sequence[int],
    head: str,
    features: int,
    hidden: int,
    classes: int,
    groups: Sequence[int],
) -> nn.Module:
    """Build a network in which groups of classes decide, too, as a card describes it.

    Args:
        library, model, options, size: the network that gets the layer; see `build_inner`.
        head: name of the last layer.
        features: number of features.
        hidden: width of the hidden layer of each branch.
        classes: number of classes.
        groups: number of groups of each branch.

    Returns:
        The network, whose weights are those of nothing yet.

    Raises:
        ClassifierError: the library is unknown, has no such model, or refuses the options.
    """
    numbers = dict(enumerate(groups)) if isinstance(groups, list | tuple) and groups else {0: None}
    counts = {f"groups.{number}": count for number, count in numbers.items()}
    counts |= {"features": features, "hidden": hidden, "classes": classes}
    check_numbers(FACTORY, counts, {})
    network = build_inner(FACTORY, library, model, options, size)
    with torch.device("meta"):  # takes no memory before the numbers are counted
        branches = nn.ModuleList(
            GroupBranch(features, hidden, torch.zeros(classes, count)) for count in groups
        )
    branches.to_empty(device="cpu")
    for values in branches.state_dict().values():
        values.zero_()
    parent, _, name = head.rpartition(".")
    last = HeadWithGroups(network.get_submodule(head), branches)  # type: ignore[arg-type]
    setattr(network.get_submodule(parent), name, last)
    return network


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
        for rows in torch.split(order, PART)
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
