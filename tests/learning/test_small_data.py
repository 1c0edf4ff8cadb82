"""Static augmentation and the additional unsupervised loss: that each has its effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Task, TrainingStep
from apercu.learning.recipes.static_augmentation import StaticAugmentation
from apercu.learning.recipes.unsupervised_loss import UnsupervisedLoss, measure_errors
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training
from apercu.learning.training import LabelledTrainingImages, LearningTraining

MakeStep = Callable[[LearningTraining], TrainingStep]
BuildNetwork = Callable[[], LearningNetwork]


def test_the_enlarged_set_is_fixed_and_is_learnt_without_further_views(
    planted_task: Task, build_network: BuildNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = StaticAugmentation(copies=2, mirror=0)
    first, again = recipe.make_images(planted_task), recipe.make_images(planted_task)
    assert len(first.images) == len(first.targets) == 2 * 48
    assert torch.equal(first.images, again.images)  # type: ignore[arg-type]
    other = recipe.make_images(replace(planted_task, seed=1))
    assert not torch.equal(first.images, other.images)  # type: ignore[arg-type]
    assert torch.equal(first.targets[:48], planted_task.targets)
    change = (torch.stack(list(first.images)[:48]) - torch.stack(list(planted_task.images))).abs()
    assert change.flatten(1).mean(1).min() > 0  # every copy is a view

    monkeypatch.setattr(LearningTraining, "global_step", 0)
    for recipes, kept in (([recipe], True), ([], False)):
        training = prepare_training(build_network(), planted_task, recipes, LearningSettings())
        learnt = LabelledTrainingImages(planted_task, training.added)
        assert len(learnt) == (3 * 48 if kept else 48)
        steps: list[TrainingStep] = []
        monkeypatch.setattr(training, "compute_terms", partial(_note, steps))
        monkeypatch.setattr(training, "log_terms", lambda *_: None)
        monkeypatch.setattr(training, "step_generator", torch.Generator)
        batch = [torch.stack(each) for each in zip(*(learnt[i] for i in range(6)), strict=True)]
        training.training_step(batch, 0)
        assert torch.equal(steps[0].images, batch[0]) is kept


def _note(steps: list[TrainingStep], step: TrainingStep) -> dict[str, torch.Tensor]:
    steps.append(step)
    return {"labels": step.outputs.logits.sum(1)}


def test_the_error_of_one_flat_colour_is_one() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    flat = images.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8)
    torch.testing.assert_close(measure_errors(flat, images), torch.ones(2), rtol=1e-3, atol=1e-3)
    exact = torch.nn.functional.avg_pool2d(images, 2)
    assert measure_errors(exact, images).max() < 1e-9


def test_features_learn_to_draw_the_image(
    planted_task: Task, build_network: BuildNetwork, make_step: MakeStep
) -> None:
    training = prepare_training(
        build_network(), planted_task, [UnsupervisedLoss(size=8)], LearningSettings()
    )
    optimiser = torch.optim.Adam(training.network.parameters(), 3e-3)
    errors = []
    for _ in range(25):
        terms = training.compute_terms(make_step(training))
        drawing = terms["unsupervised_loss_drawing"] + terms["unsupervised_loss_drawing_unlabelled"]
        errors.append(float(drawing.detach().mean()) / 0.6)
        optimiser.zero_grad()
        drawing.mean().backward()
        optimiser.step()
    assert errors[0] > 1 > 1.3 * errors[-1]  # better than one flat colour
    body = dict(training.network.body.named_parameters())
    assert body["conv1.0.weight"].grad is not None  # the features learn, not the decoder alone
    alone = replace(planted_task, unlabelled=None)
    recipe = UnsupervisedLoss(size=8)
    training = prepare_training(build_network(), alone, [recipe], LearningSettings())
    assert list(recipe.compute_losses(make_step(training))) == ["drawing"]
    with pytest.raises(ConfigError, match="size: expected at most the images' 32 pixels, got 64"):
        UnsupervisedLoss(size=64).check_task(planted_task)
