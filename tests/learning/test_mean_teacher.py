"""The mean teacher: its weights, its clusters, and what a resumed training makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from apercu import train_classifier
from apercu.classifiers import Classifier
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Task, TrainingStep
from apercu.learning.recipes.final_batch_norm import FinalBatchNorm
from apercu.learning.recipes.mean_teacher import (
    AveragedTeacher,
    MeanTeacher,
    measure_spread,
    pull_neighbours,
)
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training
from apercu.learning.training import LearningTraining

from .conftest import PLANTED

MakeStep = Callable[..., TrainingStep]
SETTINGS = "schedule: {steps: 6, batch: 8, save_every: 2, averaging: 0.5}\n"


class Killed(BaseException):
    """Stands for the end of the process."""


def test_the_teacher_is_the_moving_average_of_the_weights(
    planted_task: Task, build_network: Callable[[], LearningNetwork], make_step: MakeStep
) -> None:
    recipe, network = MeanTeacher(decay=0.6), build_network()
    prepare_training(network, planted_task, [recipe], LearningSettings())
    teacher = network.parts["mean_teacher"]
    assert isinstance(teacher, AveragedTeacher)
    assert not any(each.requires_grad for each in teacher.parameters())
    weight, expected = network.head.weight, network.head.weight.detach().clone()
    for step in range(1, 5):
        with torch.no_grad():
            weight.add_(step)
        recipe.finish_step(network, planted_task, step / 5)
        keep = min(0.6, step / (step + 1))  # 1/2, 0.6, 0.6, 0.6
        expected = keep * expected + (1 - keep) * weight.detach()
    torch.testing.assert_close(teacher.network.head.weight, expected)


def test_the_teacher_has_the_layers_of_recipes_that_come_later(
    planted_task: Task, build_network: Callable[[], LearningNetwork]
) -> None:
    network = build_network()
    recipes = [MeanTeacher(), FinalBatchNorm()]
    prepare_training(network, planted_task, recipes, LearningSettings())
    own = network.parts["mean_teacher"].network
    names = {name for name, _ in network.named_parameters() if not name.startswith("parts.")}
    assert {name for name, _ in own.named_parameters()} == names
    assert any(name.startswith("tail.") for name in names)


def test_consistency_pulls_the_student_to_the_teacher(
    planted_task: Task, build_network: Callable[[], LearningNetwork], make_step: MakeStep
) -> None:
    network = build_network()
    recipe = MeanTeacher(clustering=0)
    training = prepare_training(network, planted_task, [recipe], LearningSettings())
    teacher = network.parts["mean_teacher"]
    with torch.no_grad():
        teacher.network.head.bias.copy_(torch.tensor([4.0, 0.0, 0.0]))
    term = training.compute_terms(make_step(training, progress=0.5))["mean_teacher_consistency"]
    assert term.shape == (16,)  # 8 unlabelled and 8 labelled images
    term.mean().backward()
    bias = network.head.bias.grad
    assert bias[0] < 0 < bias[1:].sum()  # a step along -gradient predicts the first class more
    assert all(each.grad is None for each in teacher.parameters())
    early = training.compute_terms(make_step(training))["mean_teacher_consistency"]
    assert float(early.detach().abs().sum()) == 0  # no weight before the first step


def test_clusters_are_of_the_nearest_with_the_same_class() -> None:
    features = torch.tensor([[0.0], [1.0], [2.5], [0.5], [9.0]], requires_grad=True)
    classes = torch.tensor([[1, 0], [1, 0], [1, 0], [0, 1], [1, 0]]).bool()
    values = pull_neighbours(features, classes, 4, 1)  # the last image is labelled
    flat = features.detach()[:, 0].tolist()
    pairs = [(flat[i] - flat[j]) ** 2 for i in range(4) for j in range(5) if i != j]
    scale = sum(pairs) / len(pairs)
    nearest = [1.0, 1.0, 1.5**2]  # 0 - 1, 1 - 0, 2.5 - 1; 0.5 is nearer but of the other class
    expected = [d / scale * torch.tensor(-d / scale).exp().item() for d in nearest]
    torch.testing.assert_close(values.detach(), torch.tensor([*expected, 0.0]))
    values[2].backward()
    assert features.grad is not None
    moved = -features.grad[:, 0]
    assert moved[2] < 0 < moved[1]  # both move towards each other
    assert moved[[0, 3, 4]].abs().sum() == 0


def test_clusters_gather_the_features_of_a_class() -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.eye(2).bool().repeat(8, 1)
    features = (torch.randn(16, 4, generator=generator) + 2 * classes[:, :1]).requires_grad_(True)

    def measure_within() -> float:
        groups = [features.detach()[classes[:, index]] for index in (0, 1)]
        return float(sum(group.var(0).sum() for group in groups) / features.detach().var(0).sum())

    before, optimiser = measure_within(), torch.optim.SGD([features], lr=1.0)
    for _ in range(30):
        optimiser.zero_grad()
        pull_neighbours(features, classes, 16, 3).sum().backward()
        optimiser.step()
    assert measure_within() < 0.7 * before
    assert float(measure_spread(features.detach())) > 0.05  # but they are not all the same


def test_a_teacher_of_one_class_and_equal_features_are_warned_of() -> None:
    recipe = MeanTeacher()
    one = recipe.describe_failure({"mean_teacher_variety": 0.01, "mean_teacher_spread": 0.5})
    assert one is not None and "predicts one class for nearly all unlabelled images" in one
    flat = recipe.describe_failure({"mean_teacher_variety": 0.9, "mean_teacher_spread": 1e-5})
    assert flat is not None and "all images have nearly the same features" in flat
    assert (
        recipe.describe_failure({"mean_teacher_variety": 0.9, "mean_teacher_spread": 0.5}) is None
    )
    features = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    assert float(measure_spread(1 + 1e-3 * features)) < 1e-3
    assert float(measure_spread(features)) > 0.5


def test_a_killed_training_keeps_the_teacher_exactly(
    backbone: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(SETTINGS)
    options: dict[str, Any] = {"unlabelled": PLANTED, "seed": 3}
    start = {"recipes": ["mean_teacher:start=0", "final_batch_norm"], "config": config}
    train_classifier(PLANTED, backbone, tmp_path / "whole", **options, **start)
    step = LearningTraining.training_step

    def die(self: LearningTraining, batch: Any, batch_index: int) -> Any:
        if self.global_step == 5:  # the last checkpoint is that of step 4
            raise Killed
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LearningTraining, "training_step", die)
        train_classifier(PLANTED, backbone, tmp_path / "killed", **options, **start)
    train_classifier(PLANTED, backbone, tmp_path / "killed", **options, resume=True)
    whole, killed = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "killed")
    )
    names = [name for name in whole if ".mean_teacher." in name]
    assert int(whole["network.parts.mean_teacher.steps"]) == 6
    assert any("weight" in name for name in names)
    for name in whole:
        assert torch.equal(whole[name], killed[name]), name
