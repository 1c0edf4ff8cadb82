"""A batch norm behind the last layer: its statistics, what it does for rare classes, its fold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Task, TrainingStep
from apercu.learning.recipes.final_batch_norm import FinalBatchNorm
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
    assert not network.is_plain
    training.recipes[0].fold_network(network)
    assert network.is_plain
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-4)
