"""Another domain without labels: rotation and consistency, on planted images of other colours."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from apercu import train_classifier
from apercu.classifiers import Classifier
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Task, TrainingStep
from apercu.learning.recipes.domain_adaptation import (
    DomainAdaptation,
    measure_divergence,
    turn_images,
)
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training

MakeStep = Callable[..., TrainingStep]


def test_images_are_turned_by_right_angles() -> None:
    image = torch.arange(4.0).view(1, 1, 2, 2)
    turned = turn_images(image.expand(4, -1, -1, -1), torch.tensor([0, 1, 2, 3]))
    assert turned[:, 0].tolist() == [
        [[0, 1], [2, 3]],
        [[1, 3], [0, 2]],
        [[3, 2], [1, 0]],
        [[2, 0], [3, 1]],
    ]


def test_the_divergence_is_that_of_kullback_and_leibler() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, expected = torch.randn(2, 5, 3, generator=generator)
    slow = [
        sum(
            float(q) * float((q / p).log()) for p, q in zip(a.softmax(0), b.softmax(0), strict=True)
        )
        for a, b in zip(logits, expected, strict=True)
    ]
    torch.testing.assert_close(measure_divergence(ONE_CLASS, logits, expected), torch.tensor(slow))
    for decision in (ONE_CLASS, EACH_CLASS):
        zeros = measure_divergence(decision, expected, expected)
        torch.testing.assert_close(zeros, torch.zeros(5), atol=1e-6, rtol=0)


def test_rotations_train_the_features_of_unlabelled_images(
    planted_task: Task, build_network: Callable[[], LearningNetwork], make_step: MakeStep
) -> None:
    network = build_network()
    recipe = DomainAdaptation(consistency=0, entropy=0)
    training = prepare_training(network, planted_task, [recipe], LearningSettings())
    step = make_step(training)
    terms = training.compute_terms(step)
    assert set(terms) == {
        "labels",
        *(f"domain_adaptation_{each}_rotation" for each in ("labelled", "unlabelled")),
        *(f"domain_adaptation_{each}_consistency" for each in ("labelled", "unlabelled")),
        "domain_adaptation_entropy",
    }
    terms["domain_adaptation_unlabelled_rotation"].mean().backward()
    assert network.parts["domain_adaptation"].weight.grad.abs().sum() > 0
    assert next(network.body.parameters()).grad.abs().sum() > 0
    assert network.head.weight.grad is None
    assert 0 <= float(step.figures["domain_adaptation_rotations"]) <= 1


def test_one_class_and_rotations_that_are_not_learnt_are_warned_of() -> None:
    recipe = DomainAdaptation()
    good = {"domain_adaptation_variety": 0.9, "domain_adaptation_rotations": 0.8}
    assert recipe.describe_failure(good) is None
    one = recipe.describe_failure(good | {"domain_adaptation_variety": 0.02})
    assert one is not None and "predicted as one class" in one
    chance = recipe.describe_failure(good | {"domain_adaptation_rotations": 0.25})
    assert chance is not None and "rotations of the other domain are not learnt" in chance


def test_what_hides_rotations_is_refused(
    planted_task: Task, build_network: Callable[[], LearningNetwork]
) -> None:
    with pytest.raises(ConfigError, match="learns how images are turned; leave out turned: true"):
        prepare_training(
            build_network(), planted_task, [DomainAdaptation()], LearningSettings(turned=True)
        )
    network = planted_task.start.network
    wide = replace(network, input=replace(network.input, size=(32, 64)))
    start = type(planted_task.start)(wide)
    with pytest.raises(ConfigError, match="expected a network for square images"):
        DomainAdaptation().check_task(replace(planted_task, start=start))


def test_recipes_without_labels_add_up(backbone: Classifier, tmp_path: Path) -> None:
    result = train_classifier(
        PLANTED,
        backbone,
        tmp_path / "run",
        unlabelled=PLANTED,
        recipes=["domain_adaptation", "mean_teacher", "glico:steps=2,width=4,size=4,samples=1"],
        steps=2,
        batch=8,
    )
    with (tmp_path / "run" / "logs" / "metrics.csv").open(newline="") as stream:
        (row,) = list(csv.DictReader(stream))[-1:]
    assert float(row["loss"]) > 0
    for name in ("labels", "domain_adaptation_entropy", "mean_teacher_consistency"):
        assert row[f"term_{name}"], name
    assert row["domain_adaptation_variety"] and row["mean_teacher_spread"]
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["source"] == "timm/test_resnet"  # nothing of the recipes is left in the network
    assert result.figures.figures["accuracy"].value >= 0
