"""A batch norm behind the last layer: its statistics, what it does for rare classes, its fold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from apercu import open_classifier
from apercu.classifiers.decisions import ONE_CLASS
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Task, TrainingStep
from apercu.learning.recipes.final_batch_norm import FinalBatchNorm
from apercu.learning.recipes.fine_tuning import Frozen
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training
from apercu.learning.training import LearningTraining


def test_logits_of_a_batch_have_the_same_spread_in_all_classes(
    planted_task: Task,
    build_network: Callable[[], LearningNetwork],
    make_step: Callable[[LearningTraining], TrainingStep],
) -> None:
    settings = LearningSettings()
    plain = prepare_training(build_network(), planted_task, [], settings)
    normed = prepare_training(build_network(), planted_task, [FinalBatchNorm()], settings)
    raw, logits = (make_step(each).outputs.logits for each in (plain, normed))
    expected = (raw - raw.mean(0)) / (raw.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("recipe", [FinalBatchNorm(), FinalBatchNorm(scale=False, shift=False)])
def test_the_folded_network_is_plain_and_computes_the_same(
    recipe: FinalBatchNorm, planted_task: Task, build_network: Callable[[], LearningNetwork]
) -> None:
    network = build_network()
    training = prepare_training(network, planted_task, [recipe], LearningSettings())
    norm = network.tail[1]  # type: ignore[index]
    assert [each.requires_grad for each in norm.parameters()] == [recipe.scale, recipe.shift]
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
        norm.running_mean.copy_(torch.tensor([1.0, 0.0, -1.0]))
        norm.running_var.copy_(torch.tensor([0.25, 1.0, 4.0]))
    images = planted_task.start.normalise(planted_task.images[:4])
    network.eval()
    before = network(images)
    assert network.kept_source is None
    training.recipes[0].fold_network(network)
    assert network.kept_source is not None
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-4)


def measure_rare_recall(recipe: FinalBatchNorm | None, seed: int, folder: Path) -> float:
    """Train the last layer on colours of two classes, of which one has 2 %; measure its recall."""
    generator = torch.Generator().manual_seed(seed)

    def draw(labels: torch.Tensor) -> torch.Tensor:
        centres = torch.where(labels == 1, 0.56, 0.44)[:, None]
        colours = centres + 0.1 * torch.randn(len(labels), 3, generator=generator)
        return colours[:, :, None, None].expand(-1, -1, 4, 4).clamp(0, 1)

    labels = (torch.arange(500) % 50 == 0).long()
    layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        layers[0].weight.copy_(torch.eye(3)[:, :, None, None])
        layers[0].bias.zero_()
    module = nn.Sequential(*layers, nn.Linear(3, 2))
    size = {"size": 4, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    classifier = open_classifier(module, classes=["common", "rare"], **size)
    network = make_network(classifier, 2, seed, scratch=False)
    start = network.to_classifier(("common", "rare"), ONE_CLASS)
    targets = torch.nn.functional.one_hot(labels, 2).float()
    task = Task(
        start, ("common", "rare"), ONE_CLASS, draw(labels), targets, torch.ones(2, 2), None, folder
    )
    recipes = [Frozen()] if recipe is None else [Frozen(), recipe]
    network.requires_grad_(True)
    training = prepare_training(network, task, recipes, LearningSettings())
    training.set_rates(0.0)
    learning = [each for each in network.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(learning, 3e-2)
    images = task.start.normalise(task.images)
    for _ in range(100):
        rows = torch.randperm(500, generator=generator)[:100]
        loss = task.compute_loss(network.train()(images[rows]), targets[rows]).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    training.finish_network()
    new = task.start.normalise(draw(torch.ones(400, dtype=torch.long)))
    with torch.no_grad():
        return float((network(new).argmax(1) == 1).float().mean())


def test_a_rare_class_is_found_more_often_unless_the_shift_learns_its_frequency(
    tmp_path: Path,
) -> None:
    plain, normed, shifted = (
        measure_rare_recall(recipe, 0, tmp_path)
        for recipe in (None, FinalBatchNorm(shift=False), FinalBatchNorm())
    )
    assert plain < 0.4 and normed > plain + 0.4, (plain, normed)
    assert shifted < normed - 0.4
