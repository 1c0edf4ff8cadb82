"""Groups of classes that are easily confused, as further targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Generator, nn

from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.auxiliary_targets import (
    FACTORY,
    NAME,
    AuxiliaryTargets,
    GroupBranch,
    count_confusions,
    group_classes,
)
from apercu.learning.recipes.base import Task, TrainingStep
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training
from apercu.learning.training import LearningTraining


def test_classes_that_are_near_each_other_become_a_group() -> None:
    generator = Generator().manual_seed(0)
    means = torch.tensor([[0.0, 0, 0], [9, 9, 0], [0.5, 0, 0], [9, 9.5, 0]])
    labels = torch.arange(4).repeat(20)
    features = means[labels] + torch.randn(80, 3, generator=generator)
    confusions = count_confusions(features, labels, 4)
    torch.testing.assert_close(confusions.sum(1), torch.ones(4))
    assert group_classes(confusions, 2).tolist() == [0, 1, 0, 1]
    assert group_classes(confusions, 3).unique().tolist() == [0, 1, 2]


def test_an_image_is_left_out_of_its_own_mean() -> None:
    features = torch.tensor([[0.0], [10.0], [5.1], [20.0]])
    labels = torch.tensor([0, 0, 1, 1])
    confusions = count_confusions(features, labels, 2)
    assert confusions[1, 0] > confusions[1, 1]  # 5.1 is nearer to 5 than to 20, and 20 to 5.1 too


def test_branches_teach_the_features_the_groups(
    planted_task: Task,
    build_network: Callable[[], LearningNetwork],
    make_step: Callable[[LearningTraining], TrainingStep],
) -> None:
    recipe = AuxiliaryTargets()
    training = prepare_training(build_network(), planted_task, [recipe], LearningSettings())
    (branch,) = training.network.parts[NAME].children()
    assert isinstance(branch, GroupBranch)
    assert branch.members.sum(0).tolist() in ([1, 2], [2, 1])
    optimiser = torch.optim.Adam(training.network.parameters(), 1e-3)
    losses = []
    for _ in range(15):
        terms = training.compute_terms(make_step(training))
        losses.append(float(terms["auxiliary_targets_groups_0"].detach().mean()))
        optimiser.zero_grad()
        terms["auxiliary_targets_groups_0"].mean().backward()  # nothing else teaches
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]


def test_groups_decide_where_they_are_combined(
    planted_task: Task, build_network: Callable[[], LearningNetwork]
) -> None:
    images = planted_task.start.normalise(planted_task.images[:4])  # type: ignore[index]
    for combine in (False, True):
        recipe = AuxiliaryTargets(combine=combine)
        training = prepare_training(build_network(), planted_task, [recipe], LearningSettings())
        network = training.network.eval()
        (branch,) = network.parts[NAME].children()
        for layer in branch.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, generator=Generator().manual_seed(0))
        outputs = network.compute_outputs(images)
        recipe.fold_network(network)
        expected = outputs.logits
        if combine:
            expected = expected + branch(outputs.features) @ branch.members.T
        torch.testing.assert_close(network(images), expected)
        assert network.kept_source is not None
        if combine:
            assert network.kept_source.source == FACTORY
            exported = torch.export.export(network.body, (images,)).module()
            torch.testing.assert_close(exported(images), expected)


def test_what_cannot_be_put_into_groups_is_refused(planted_task: Task) -> None:
    two = replace(planted_task, classes=("a", "b"))
    with pytest.raises(ConfigError, match=r"expected at least 3 classes, .* got 2"):
        AuxiliaryTargets().check_task(two)
    with pytest.raises(ConfigError, match="groups: expected 2 to 2 for 3 classes, got 3"):
        AuxiliaryTargets(groups=(3,)).check_task(planted_task)
