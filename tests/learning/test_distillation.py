"""Learning from a teacher: every form, a teacher of one's own, and born-again generations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator

from apercu.classifiers import Classifier, save_classifier
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Task, TrainingStep
from apercu.learning.recipes.colouring import Colouring
from apercu.learning.recipes.distillation import (
    NAME,
    Distillation,
    compute_quietly,
    match_attention,
    match_features,
    match_logits,
    match_similarity,
)
from apercu.learning.recipes.final_batch_norm import FinalBatchNorm
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training
from apercu.pretraining.backbone import open_backbone


@pytest.fixture(scope="module")
def teacher(planted_task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classifier of the planted classes, with weights of its own."""
    other = open_backbone("timm/test_resnet", planted_task.start.network.input, seed=5)
    network = make_network(other, 3, 5, scratch=False)
    with torch.no_grad():
        network.head.weight.mul_(10)  # type: ignore[operator, union-attr]
    folder = tmp_path_factory.mktemp("teacher")
    save_classifier(network.to_classifier(planted_task.classes, planted_task.decision), folder)
    return folder


FORMS = ("logits", "features", "attention", "similarity")
MakeStep = Callable[..., TrainingStep]
BuildNetwork = Callable[[], LearningNetwork]


def test_each_form_is_zero_for_the_teacher_itself_and_knows_what_it_ignores() -> None:
    generator = Generator().manual_seed(0)
    logits, others = (torch.randn(6, 4, generator=generator) for _ in range(2))
    for decision in (ONE_CLASS, EACH_CLASS):
        assert match_logits(logits, logits, 4.0, decision).abs().max() < 1e-5
        assert match_logits(others, logits, 4.0, decision).min() > 0
    softened = (logits / 4).softmax(1)
    expected = 16 * (softened * (softened / (others / 4).softmax(1)).log()).sum(1)
    torch.testing.assert_close(match_logits(others, logits, 4.0, ONE_CLASS), expected)
    maps = torch.rand(6, 8, 4, 4, generator=generator)
    shuffled = maps[:, torch.randperm(8, generator=generator)]
    turned = maps.rot90(1, (2, 3))
    for match in (match_features, match_attention, match_similarity):
        assert match(maps, maps).abs().max() < 1e-9
    assert match_features(shuffled, maps).min() > 0.01
    assert match_attention(shuffled, maps).max() < 1e-9  # where, not what
    assert match_attention(turned, maps).min() > 1e-4
    assert match_similarity(turned, maps).max() < 1e-9  # which images are alike, not where


@pytest.mark.parametrize("form", FORMS)
def test_the_student_comes_near_the_teacher_without_labels(
    form: str,
    teacher: Path,
    planted_task: Task,
    build_network: BuildNetwork,
    make_step: MakeStep,
) -> None:
    recipe = Distillation(teacher=str(teacher), form=form)  # type: ignore[arg-type]
    training = prepare_training(build_network(), planted_task, [recipe], LearningSettings())
    body = training.network.body
    optimiser = torch.optim.Adam(training.network.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        (loss,) = recipe.compute_losses(make_step(training)).values()
        losses.append(float(loss.detach().mean()))
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]
    assert all(each.grad is not None for each in body.conv1.parameters())


def test_the_network_teaches_itself_and_is_born_again(
    planted_task: Task, build_network: BuildNetwork, make_step: MakeStep
) -> None:
    recipe = Distillation(generations=2, reborn=True)
    training = prepare_training(build_network(), planted_task, [recipe], LearningSettings())
    network, before = training.network, build_network().body.state_dict()
    assert recipe.compute_losses(make_step(training))["logits"].abs().max() == 0
    with torch.no_grad():
        for parameter in network.body.parameters():
            parameter.add_(0.1)
    recipe.finish_step(network, planted_task, 0.3)
    assert not torch.equal(network.body.state_dict()["conv1.0.weight"], before["conv1.0.weight"])
    recipe.finish_step(network, planted_task, 0.34)
    assert torch.equal(network.body.state_dict()["conv1.0.weight"], before["conv1.0.weight"])
    taught = network.parts[NAME].own_teacher.state_dict()["body.conv1.0.weight"]  # type: ignore
    torch.testing.assert_close(taught, before["conv1.0.weight"] + 0.1)
    assert recipe.compute_losses(make_step(training))["logits"].mean() > 0
    recipe.finish_step(network, planted_task, 0.5)
    torch.testing.assert_close(
        network.parts[NAME].own_teacher.state_dict()["body.conv1.0.weight"], taught
    )  # type: ignore
    recipe.finish_step(network, planted_task, 1.0)
    assert int(network.parts[NAME].generation) == 1  # type: ignore[arg-type]


def test_layers_that_recipes_add_are_of_the_teacher_too(
    planted_task: Task, build_network: BuildNetwork, make_step: MakeStep
) -> None:
    """A teacher does not change with the student's colouring and norm; a reborn student does."""
    images = torch.stack(
        [each.mean(0, keepdim=True).expand(3, -1, -1) for each in planted_task.images]
    )
    task = replace(planted_task, images=images)
    recipe = Distillation(generations=2, reborn=True)
    recipes = [recipe, Colouring(), FinalBatchNorm()]
    training = prepare_training(build_network(), task, recipes, LearningSettings())
    network, parts = training.network, training.network.parts[NAME]
    first = {name: each.clone() for name, each in network.named_parameters() if "parts" not in name}
    assert any(name.startswith("front.") for name in first)
    assert any(name.startswith("tail.") for name in first)

    def shift_weights() -> None:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name in first:
                    parameter.add_(0.1)

    shift_weights()
    expected = compute_quietly(network, task.start.normalise(make_step(training).images)).logits
    recipe.finish_step(network, task, 0.34)
    for name, parameter in network.named_parameters():
        if name in first:
            torch.testing.assert_close(parameter.data, first[name])
    shift_weights()
    shift_weights()
    taught, _ = parts.compute_targets(make_step(training), needs_maps=False)  # type: ignore
    torch.testing.assert_close(taught, expected)


def test_teachers_that_cannot_teach_are_refused(
    planted_task: Task, teacher: Path, backbone: Classifier, tmp_path: Path
) -> None:
    save_classifier(backbone, tmp_path / "features")
    features = Distillation(teacher=str(tmp_path / "features"))
    with pytest.raises(ConfigError, match="expected the same, or form=features"):
        features.check_task(planted_task)
    features.model_copy(update={"form": "attention"}).check_task(planted_task)
    renamed = replace(planted_task, classes=("x", "y", "z"))
    with pytest.raises(ConfigError, match="the labels x, y, z; expected the same"):
        Distillation(teacher=str(teacher)).check_task(renamed)
    with pytest.raises(ConfigError, match="leave the teacher out"):
        Distillation(teacher=str(teacher), reborn=True).check_task(planted_task)
