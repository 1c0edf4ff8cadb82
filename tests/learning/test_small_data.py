"""Static augmentation and the additional unsupervised loss: that each has its effect."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from apercu import open_classifier
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Task, TrainingStep
from apercu.learning.recipes.registry import parse_recipes
from apercu.learning.recipes.static_augmentation import StaticAugmentation
from apercu.learning.recipes.unsupervised_loss import UnsupervisedLoss, measure_errors
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training
from apercu.learning.training import LabelledTrainingImages, LearningTraining
from apercu.training.augment import RandomViews

ROOT = Path(__file__).parents[2]
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


def test_the_enlarged_set_teaches_what_its_copies_show(
    planted_task: Task, build_network: BuildNetwork
) -> None:
    """The side of a bright half: without mirrored copies it is known of one side only."""
    count = 16
    images = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    labels = torch.arange(count) % 2
    images[labels == 1, :, :, :16] += 0.4  # class 1 is bright on the left, never on the right
    images[labels == 0, :, 8:24, 8:24] += 0.3
    targets = torch.nn.functional.one_hot(labels, 3).float()
    task = replace(planted_task, images=images, targets=targets, class_weights=torch.ones(2, 3))
    found = {}
    for name, recipes in (
        ("as they are", []),
        ("mirrored", [StaticAugmentation(copies=2, mirror=1.0, smallest=1.0)]),
    ):
        settings = LearningSettings(views=RandomViews(whole=1.0, mirror=0.0))
        training = prepare_training(build_network(), task, recipes, settings)
        learnt = LabelledTrainingImages(task, training.added)
        pairs = [learnt[index] for index in range(len(learnt))]
        everything, truth = (torch.stack(each) for each in zip(*pairs, strict=True))
        network = training.network.train()
        optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            rows = torch.randperm(len(learnt), generator=generator)[:count]
            logits = network(task.start.normalise(everything[rows]))
            optimiser.zero_grad()
            torch.autograd.backward(task.compute_loss(logits, truth[rows]).mean())
            optimiser.step()
        training.finish_network()
        with torch.no_grad():
            new = network(task.start.normalise(images[labels == 1].flip(3)))
        found[name] = float(task.compute_loss(new, targets[labels == 1]).mean())
    assert found["mirrored"] < 0.5 * found["as they are"], found


def test_the_card_of_the_manual_is_a_small_network_with_dropout(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "howto" / "train-a-classifier.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "card.json").write_text(text)
    start = open_classifier(tmp_path / "card.json")
    network, usual = make_network(start, 3, 0, scratch=True), timm.create_model("resnet10t")
    body: Any = network.body
    small, large = (sum(each.numel() for each in net.parameters()) for net in (body, usual))
    assert small < large / 10
    assert body.drop_rate == 0.4 and body.bn1.num_features == 2 * 16 < usual.bn1.num_features
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, second = network.train()(images), network(images)
    assert not torch.equal(first, second)  # features are dropped in the training
    assert torch.equal(network.eval()(images), network(images))


def test_a_single_recipe_needs_no_list() -> None:
    assert parse_recipes("frozen") == parse_recipes(["frozen"])
    assert parse_recipes("frozen,static_augmentation:copies=3")[1] == StaticAugmentation(copies=3)
