"""Another domain without labels: rotation and consistency, on planted images of other colours."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from apercu import open_classifier, train_classifier
from apercu.classifiers import Classifier
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Task, TrainingStep
from apercu.learning.recipes.domain_adaptation import (
    DomainAdaptation,
    measure_divergence,
    turn_images,
)
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training

from .conftest import PLANTED

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
    wide = replace(network, input=network.input.model_copy(update={"size": (32, 64)}))
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
    assert 0 <= result.figures.figures["accuracy"].value <= 1


CLASSES = ("across", "down", "square")


def draw_shapes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of light shapes in front of a sky that is lighter above, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    sky = torch.rand(count, 3, 1, 1, generator=generator) * 0.3 + 0.2
    images = (sky + torch.linspace(0.35, 0, 32)[:, None]).repeat(1, 1, 1, 32)
    labels = torch.arange(count) % 3
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = torch.randint(4, 14, (2,), generator=generator).tolist()
        rows, columns = [((5, 8), (0, 14)), ((0, 14), (5, 8)), ((2, 11), (2, 11))][label]
        colour = torch.rand(3, 1, 1, generator=generator) * 0.2 + 0.8
        image[:, top + rows[0] : top + rows[1], left + columns[0] : left + columns[1]] = colour
    noise = torch.randn(images.shape, generator=generator)
    return (images + 0.05 * noise).clamp(0, 1), labels


def shift(images: Tensor) -> Tensor:
    """The same images with less contrast, less in some colours than in others, and lighter."""
    return 0.55 + torch.tensor([0.35, 0.15, 0.25])[:, None, None] * (images - 0.5)


def train_and_measure(recipe: DomainAdaptation | None, folder: Path) -> tuple[float, float]:
    """Train a small network on shapes; return its accuracy on other ones, and on shifted ones."""
    images, labels = draw_shapes(96, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [
            nn.Sequential(nn.Conv2d(first, second, 3, 2, 1), nn.BatchNorm2d(second), nn.ReLU())
            for first, second in ((3, 16), (16, 32), (32, 32))
        ]
        body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))
    start = open_classifier(body, size=32, classes=CLASSES, mean=0.5, std=0.25)
    network = make_network(start, 3, 0, scratch=False)
    before = network.to_classifier(CLASSES, ONE_CLASS)
    task = Task(
        Classifier(copy.deepcopy(before.network)),
        CLASSES,
        ONE_CLASS,
        images,
        torch.eye(3)[labels],
        torch.ones(2, 3),
        shift(draw_shapes(96, 1)[0]),
        folder,
    )
    network.requires_grad_(True)
    training = prepare_training(network, task, [recipe] if recipe else [], LearningSettings())
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    for number in range(60):
        generator = torch.Generator().manual_seed(number)
        rows = torch.randint(96, (16,), generator=generator)
        step = TrainingStep(
            task,
            network.train(),
            images[rows],
            images[rows],
            task.targets[rows],
            training.draw_unlabelled(16, generator),
            generator,
            number / 60,
            lambda views, _: views,
        )
        terms = training.compute_terms(step)
        optimiser.zero_grad()
        torch.stack([values.mean() for values in terms.values()]).sum().backward()
        optimiser.step()
    training.finish_network()
    others, truth = draw_shapes(150, 2)
    accuracies = []
    for each in (others, shift(others)):
        logits = network(before.normalise(each))
        accuracies.append(float((logits.argmax(1) == truth).float().mean()))
    return accuracies[0], accuracies[1]


def test_accuracy_rises_in_the_other_domain(tmp_path: Path) -> None:
    own, other = train_and_measure(None, tmp_path)
    adapted = train_and_measure(DomainAdaptation(), tmp_path)[1]
    assert own > 0.7 and other < 0.5  # the shift is one that matters
    assert adapted > other + 0.15
