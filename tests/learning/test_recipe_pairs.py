"""Recipes together, in both orders: they train, leave a classifier, and agree on what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, permutations

import pytest
import torch
from torch import nn

from apercu import open_classifier
from apercu.classifiers import Classifier
from apercu.classifiers.decisions import EACH_CLASS
from apercu.errors import ConfigError
from apercu.learning.data import weigh_classes
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.auxiliary_targets import AuxiliaryTargets
from apercu.learning.recipes.base import Recipe, Task, TrainingStep, is_overridden
from apercu.learning.recipes.final_batch_norm import FinalBatchNorm
from apercu.learning.recipes.registry import RECIPES, get, parse_recipes
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training
from apercu.learning.training import LearningTraining

MakeStep = Callable[..., TrainingStep]
BuildNetwork = Callable[[], LearningNetwork]
CHANGING = (
    "colouring",
    "spatial_attention",
    "final_batch_norm",
    "auxiliary_targets:combine=true",
    "distillation:reborn=true",
    "distillation:form=features",
    "mean_teacher",
)
"""Recipes that add layers, copy the network, or put other layers into it at the end."""


@pytest.fixture(scope="module")
def pretrained() -> Classifier:
    """A classifier of three other classes, whose last layer takes the mean of a feature map."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        maps = [nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU()]
        layers = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return open_classifier(
        layers, size=32, mean=(0.5,) * 3, std=(0.25,) * 3, classes=["old a", "old b", "old c"]
    )


@pytest.fixture(scope="module")
def grey_task(planted_task: Task, pretrained: Classifier) -> Task:
    """The planted images without colours, and a pretrained classifier: for all recipes at once."""
    images, targets = planted_task.images, planted_task.targets
    grey = torch.stack([images[index] for index in range(12)]).mean(1, keepdim=True)
    grey = grey.expand(-1, 3, -1, -1)
    network = make_network(pretrained, 3, 0, scratch=False)
    return replace(
        planted_task,
        start=network.to_classifier(planted_task.classes, planted_task.decision),
        images=grey,
        targets=targets[:12],
        unlabelled=grey,
        pretrained=pretrained,
    )


@pytest.fixture
def build_network(pretrained: Classifier) -> BuildNetwork:
    """Makes a new network of the task, with the same weights each time."""
    return lambda: make_network(pretrained, 3, 0, scratch=False)


def train(
    recipes: Sequence[Recipe], task: Task, network: LearningNetwork, make_step: MakeStep
) -> LearningTraining:
    """Train two steps."""
    training = prepare_training(network, task, recipes, LearningSettings())
    optimiser = torch.optim.SGD(network.parameters(), 1e-2)
    for number in (1, 2):
        terms = training.compute_terms(make_step(training, progress=number / 3))
        optimiser.zero_grad()
        torch.autograd.backward(torch.stack([term.mean() for term in terms.values()]).sum())
        optimiser.step()
        for recipe in recipes:
            recipe.finish_step(network, task, (number + 1) / 3)
    return training


def test_all_recipes_that_change_the_network_are_tried() -> None:
    names = {get(text).name for text in CHANGING}
    for name, recipe in RECIPES.items():
        replaces = any(is_overridden(recipe(), hook) for hook in ("fold_network", "finish_step"))
        if replaces or recipe.copies_network or recipe.normalises_logits:
            assert name in names


@pytest.mark.parametrize(
    "pair", [pair for pair in combinations(CHANGING, 2) if get(pair[0]).name != get(pair[1]).name]
)
def test_a_pair_trains_in_both_orders_and_the_same_weights_end_in_the_same_classifier(
    pair: tuple[str, str], grey_task: Task, build_network: BuildNetwork, make_step: MakeStep
) -> None:
    images = torch.stack([grey_task.images[index] for index in range(4)])
    first, second = (
        train(parse_recipes(order), grey_task, build_network(), make_step)
        for order in (pair, pair[::-1])
    )
    second.network.load_state_dict(first.network.state_dict())
    expected = None
    for training in (first, second):
        training.finish_network()
        network = training.network
        classifier = network.to_classifier(grey_task.classes, grey_task.decision)
        logits = classifier(images)
        assert logits.isfinite().all()
        expected = logits if expected is None else expected
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_learns_from_partly_known_labels_or_says_that_it_cannot(
    name: str, grey_task: Task, build_network: BuildNetwork, make_step: MakeStep
) -> None:
    unknown = torch.zeros(12, 3, dtype=torch.bool)
    unknown[::2, 0], unknown[1::3, 1] = True, True
    targets = grey_task.targets.masked_fill(unknown, torch.nan)
    weights = weigh_classes(targets, EACH_CLASS, balanced=True)
    task = replace(grey_task, decision=EACH_CLASS, targets=targets, class_weights=weights)
    network = build_network()
    try:
        training = train([get(name)], task, network, make_step)
    except ConfigError as error:
        assert str(error).startswith(f"recipe: {name}: expected one class per image")
        return
    terms = training.compute_terms(make_step(training, progress=0.9))
    assert all(term.isfinite().all() for term in terms.values())
    training.finish_network()
    images = torch.stack([task.images[index] for index in range(4)])
    assert network.to_classifier(task.classes, EACH_CLASS)(images).isfinite().all()


@pytest.mark.parametrize("order", [*permutations(["final_batch_norm", "graph_interpolation"])])
def test_statistics_of_one_layer_are_not_used_for_another(order: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="graph_interpolation puts another one in its place"):
        parse_recipes(["frozen", *order])


def test_groups_are_added_to_the_normalised_logits(
    grey_task: Task, build_network: BuildNetwork, make_step: MakeStep
) -> None:
    recipes = (FinalBatchNorm(), AuxiliaryTargets(combine=True))
    training = train(recipes, grey_task, build_network(), make_step)
    network = training.network.eval()
    images = grey_task.start.normalise(torch.stack([grey_task.images[i] for i in range(4)]))
    with torch.no_grad():
        for branch in network.parts["auxiliary_targets"]:  # type: ignore[union-attr]
            branch.layers[-1].weight.zero_()
            branch.layers[-1].bias.copy_(torch.tensor([2.0, -1.0]))
        groups = torch.tensor([2.0, -1.0]).log_softmax(0)
        training.finish_network()  # also gives the norm its statistics
        branch = network.head.branches[0]  # type: ignore[index, union-attr]
        normed = network.head.head(network.compute_outputs(images).features)  # type: ignore
        logits = network(images)
    torch.testing.assert_close(logits, normed + branch.members @ groups)
    assert isinstance(network.tail, nn.Identity)
