"""The toolbox's attacks behind our names: what each promises, and what ours agree with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apercu import open_classifier
from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.robustness.attacks import (
    Attack,
    AutoAttack,
    CarliniWagner,
    DeepFool,
    HopSkipJump,
    Square,
)
from apercu.robustness.objectives import ExpectationOverTransforms, Targeted, Untargeted

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK: tuple[Attack, ...] = (
    CarliniWagner(steps=3, searches=1),
    AutoAttack(8 / 255, steps=2, queries=5),
    HopSkipJump(steps=1, queries=20),
    Square(8 / 255, queries=5),
)


@pytest.fixture
def classifier(tiny_card: Path) -> Classifier:
    return open_classifier(tiny_card)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("attack", QUICK, ids=repr)
def test_every_attack(attack: Attack, classifier: Classifier, images: torch.Tensor) -> None:
    goal = Untargeted(classifier, classifier(images).argmax(1))
    before, draws = images.clone(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    attacked = attack(goal, images)
    assert attacked.shape == images.shape and attacked.dtype == images.dtype
    assert attacked.min() >= 0 and attacked.max() <= 1 and not attacked.requires_grad
    assert torch.equal(images, before)
    assert np.array_equal(np.random.get_state()[1], draws)  # type: ignore[arg-type]
    assert torch.equal(attack(goal, images), attacked)
    if (epsilon := getattr(attack, "epsilon", None)) is not None:
        assert (attacked - images).abs().max() <= epsilon + 1e-6


def test_carlini_and_wagner_reach_the_boundary_of_a_linear_classifier() -> None:
    weights = torch.randn(48, generator=torch.Generator().manual_seed(0))

    def linear(images: torch.Tensor) -> torch.Tensor:
        score = (images.flatten(1) - 0.5) @ weights
        return torch.stack([torch.zeros_like(score), score], 1)

    images = 0.3 + 0.4 * torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    goal = Untargeted(linear, linear(images).argmax(1))
    nearest = DeepFool()(goal, images)
    attacked = CarliniWagner(steps=60, searches=8)(goal, images)
    assert goal.is_adversarial(attacked).all()
    lengths = [(one - images).flatten(1).norm(dim=1) for one in (attacked, nearest)]
    assert (lengths[0] <= 1.3 * lengths[1]).all()


def test_decisions_lead_to_the_boundary_of_a_network_of_single_precision() -> None:
    layer = torch.nn.Linear(48, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 48, generator=torch.Generator().manual_seed(0)))
        layer.bias.zero_()

    def answer(images: torch.Tensor) -> torch.Tensor:
        return layer((images.flatten(1) - 0.5).clone())

    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        goal = Untargeted(answer, answer(images).argmax(1))
    attacked = HopSkipJump(steps=3, queries=100)(goal, images)
    assert attacked.dtype == torch.float32
    assert goal.is_adversarial(attacked).all()
    assert (attacked - images).flatten(1).norm(dim=1).max() < 2.5


def test_other_objectives_are_refused(classifier: Classifier, images: torch.Tensor) -> None:
    labels = classifier(images).argmax(1)
    with pytest.raises(ConfigError, match="this attack changes classes only"):
        Square(queries=2)(ExpectationOverTransforms(Untargeted(classifier, labels)), images)
    with pytest.raises(ConfigError, match="square: expected no target, as it only leads away"):
        Square(queries=2)(Targeted(classifier, labels), images)
