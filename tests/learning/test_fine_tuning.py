"""Which layers learn: the rates of their groups, and that the training obeys them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from apercu import open_classifier
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Recipe, Task, TrainingStep
from apercu.learning.recipes.domain_adaptation import DomainAdaptation
from apercu.learning.recipes.final_batch_norm import FinalBatchNorm
from apercu.learning.recipes.fine_tuning import Frozen, Full, GradualUnfreezing
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training
from apercu.learning.training import LearningTraining

MakeStep = Callable[..., TrainingStep]
BuildNetwork = Callable[[], LearningNetwork]


def prepare(recipe: Recipe, task: Task, build_network: BuildNetwork) -> LearningTraining:
    return prepare_training(build_network(), task, [recipe], LearningSettings())


def test_more_and_more_groups_learn_from_the_end(
    planted_task: Task, build_network: BuildNetwork
) -> None:
    training = prepare(Frozen(), planted_task, build_network)
    last = len(training.groups) - 1
    assert last >= 4 and training.groups[last].name == "head"

    def count_learning(recipe: Recipe, progress: float) -> int:
        rates = recipe.choose_rates(training.groups, progress)
        assert rates is not None and list(rates) == sorted(rates)  # frozen ones are the first
        return sum(rate > 0 for rate in rates)

    gradual = GradualUnfreezing(over=0.5)
    assert [count_learning(Frozen(), progress) for progress in (0.0, 0.25, 1.0)] == [1, 1, 1]
    assert [count_learning(gradual, progress) for progress in (0.0, 0.25, 0.5, 1.0)] == [
        *(1, 1 + last // 2, 1 + last, 1 + last)
    ]
    assert count_learning(GradualUnfreezing(over=1), 0.25) == 1 + last // 4
    assert [count_learning(Full(early=0.01), progress) for progress in (0.0, 0.25, 1.0)] == [
        1 + last
    ] * 3


@pytest.mark.parametrize("recipe", [Full(early=0.01), GradualUnfreezing(early=0.01)])
def test_early_groups_learn_more_slowly_by_the_same_factor(
    recipe: Recipe, planted_task: Task, build_network: BuildNetwork
) -> None:
    rates = recipe.choose_rates(prepare(recipe, planted_task, build_network).groups, 1.0)
    assert rates is not None and rates[0] == pytest.approx(0.01) and rates[-1] == 1
    factors = [later / earlier for earlier, later in pairwise(rates)]
    assert factors == pytest.approx([100 ** (1 / (len(rates) - 1))] * len(factors))
    assert Full().choose_rates(prepare(Full(), planted_task, build_network).groups, 0.0) == [
        1.0
    ] * len(rates)


@pytest.mark.parametrize(
    ("recipe", "progress"),
    [
        (Frozen(), 1.0),
        (GradualUnfreezing(early=0.1), 0.0),
        (GradualUnfreezing(early=0.1), 0.25),
        (GradualUnfreezing(early=0.1), 1.0),
        (Full(early=0.1), 0.0),
    ],
)
def test_a_step_moves_each_group_by_its_rate_and_frozen_ones_not_at_all(
    recipe: Recipe,
    progress: float,
    planted_task: Task,
    build_network: BuildNetwork,
    make_step: MakeStep,
) -> None:
    """The loss is such that every weight has a gradient of 1, so a step of SGD is the rate."""
    training = prepare(recipe, planted_task, build_network)
    rates = recipe.choose_rates(training.groups, progress)
    assert rates is not None
    before = [[each.detach().clone() for each in group.parameters] for group in training.groups]
    statistics = [
        [norm.running_mean.clone() for norm in group.norms]  # type: ignore[union-attr]
        for group in training.groups
    ]
    optimiser = torch.optim.SGD(training.parameter_groups(), lr=1.0)
    step = make_step(training, progress=progress)
    training.set_rates(progress)  # as in a step of the training, after `train`
    assert step.outputs.logits.requires_grad
    learning = [each for each in training.network.parameters() if each.requires_grad]
    torch.stack([each.sum() for each in learning]).sum().backward()
    rate = optimiser.param_groups[0]["lr"]
    training.on_before_optimizer_step(optimiser)
    optimiser.step()
    for group, old, means, factor in zip(training.groups, before, statistics, rates, strict=True):
        for parameter, start in zip(group.parameters, old, strict=True):
            torch.testing.assert_close(
                start - parameter.detach(),
                torch.full_like(start, rate * factor),
                rtol=1e-2,
                atol=1e-6,
            )
        moved = [
            not torch.equal(norm.running_mean, m)
            for norm, m in zip(group.norms, means, strict=True)
        ]  # type: ignore[arg-type]
        assert moved == [factor > 0] * len(moved)  # statistics of batch norms, too


def test_weights_of_frozen_groups_stay_over_a_whole_training(
    planted_task: Task, build_network: BuildNetwork, make_step: MakeStep
) -> None:
    """Also with momentum and weight decay, which move weights that have no gradient."""
    training = prepare(GradualUnfreezing(over=1.0), planted_task, build_network)
    optimiser = torch.optim.AdamW(training.parameter_groups(), weight_decay=0.1)
    count = len(training.groups)
    first_moves: list[float | None] = [None] * count
    start = [[each.detach().clone() for each in group.parameters] for group in training.groups]
    for number in range(6):
        progress = number / 6
        terms = training.compute_terms(make_step(training, progress=progress))
        optimiser.zero_grad()
        torch.autograd.backward(torch.stack([each.mean() for each in terms.values()]).sum())
        rates = [group["lr"] for group in optimiser.param_groups]
        training.on_before_optimizer_step(optimiser)
        optimiser.step()
        for group, value in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = value
        for index, (group, old) in enumerate(zip(training.groups, start, strict=True)):
            pairs = zip(group.parameters, old, strict=True)
            if first_moves[index] is None and any(not torch.equal(a, b) for a, b in pairs):
                first_moves[index] = progress
    expected = [
        next((n / 6 for n in range(6) if count - index <= 1 + int(n / 6 * (count - 1))), None)
        for index in range(count)
    ]
    assert first_moves == expected and expected[0] is None and expected[-1] == 0


def list_statistics(network: torch.nn.Module) -> list[torch.Tensor]:
    return [values.clone() for name, values in network.named_buffers() if "running" in name]


@pytest.mark.parametrize("norms", ["keep", "learn"])
def test_batch_norms_keep_their_statistics_where_they_should(
    norms: str, planted_task: Task, build_network: BuildNetwork, make_step: MakeStep
) -> None:
    settings = LearningSettings.model_validate({"norms": norms})
    training = prepare_training(build_network(), planted_task, [], settings)
    before = list_statistics(training.network)
    step = make_step(training)
    training.set_rates(0.0)  # as each step of the training does after the network's own mode
    terms = training.compute_terms(step)
    torch.stack([each.mean() for each in terms.values()]).sum().backward()
    assert any(values.grad is not None for values in training.network.body.parameters())
    training.finish_network()
    same = [
        torch.equal(a, b) for a, b in zip(before, list_statistics(training.network), strict=True)
    ]
    assert same and (all(same) if norms == "keep" else not any(same))


def test_a_final_batch_norm_learns_where_the_others_keep_theirs(
    planted_task: Task, build_network: BuildNetwork, make_step: MakeStep
) -> None:
    settings = LearningSettings.model_validate({"norms": "keep"})
    training = prepare_training(build_network(), planted_task, [FinalBatchNorm()], settings)
    training.compute_terms(make_step(training))
    kept = {id(norm) for norm in training.list_kept_norms()}
    norms = [each for each in training.network.modules() if isinstance(each, _BatchNorm)]
    assert len(kept) == len(norms) - 1
    (learning,) = (norm for norm in norms if id(norm) not in kept)
    assert learning.training and learning.running_mean.abs().max() > 0


def test_batch_norms_without_parameters_belong_to_the_layers_before_them() -> None:
    """They belonged to no group, so that their statistics changed in frozen layers, too."""
    body = nn.Sequential(
        nn.BatchNorm2d(3, affine=False),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, affine=False),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    network = make_network(open_classifier(body, size=16, classes=["a", "b"]), 2, 0, scratch=False)
    groups, layers = network.list_groups(), list(network.body.children())

    def find_group(kind: str, member: object) -> int:
        return next(i for i, g in enumerate(groups) if id(member) in map(id, getattr(g, kind)))

    assert find_group("norms", layers[0]) == 0
    assert find_group("norms", layers[2]) == find_group("parameters", layers[1].weight)
    assert find_group("norms", layers[4]) == find_group("parameters", layers[4].weight)
    assert not groups[-1].norms


def test_kept_norms_need_pretrained_weights_and_no_recipe_that_adapts_them(
    planted_task: Task, build_network: BuildNetwork
) -> None:
    scratch = LearningSettings.model_validate({"norms": "keep", "scratch": True})
    with pytest.raises(ConfigError, match="norms: keep needs pretrained weights"):
        prepare_training(build_network(), planted_task, [], scratch)
    keep = LearningSettings.model_validate({"norms": "keep"})
    with pytest.raises(ConfigError, match="domain_adaptation ends with batch norms of the other"):
        prepare_training(build_network(), planted_task, [DomainAdaptation()], keep)
