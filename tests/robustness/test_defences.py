"""Losses against closed forms and literal loops, and what holds for every defence."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from apercu import open_classifier, open_images
from apercu.classifiers import Classifier, ClassifierCard, InputSpec, wrap_module
from apercu.classifiers.decisions import EACH_CLASS
from apercu.classifiers.reinitialise import copy_trainable
from apercu.errors import ConfigError
from apercu.filters import BitDepth, FloydSteinberg
from apercu.robustness.attacks import Pgd
from apercu.robustness.defences import (
    Adversarial,
    Defence,
    DefenceBatch,
    Hybrid,
    Sinkhorn,
    Standard,
    sinkhorn_divergence,
)
from apercu.robustness.defences.settings import DEFENCES
from apercu.robustness.defences.training import DEGENERATE, DefenceTraining, fit_defence
from apercu.robustness.objectives import Untargeted
from apercu.training.module import DegeneracyMonitor
from apercu.training.trainer import Hardware, Trainer

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(192, 3, generator=torch.Generator().manual_seed(1)) / 8
TARGETS = F.one_hot(torch.tensor([0, 1, 2, 1]), 3).float()
ATTACK = "pgd:epsilon=8/255,steps=2"
EVERY: tuple[Defence, ...] = (
    Standard(),
    Hybrid(representations=("floyd_steinberg", "jpeg:quality=10")),
    Adversarial(attack=ATTACK, honest=0.5),
    Adversarial(attack=ATTACK, behind="floyd_steinberg"),
    Sinkhorn(attack=ATTACK, rounds=5),
)


def linear(images: torch.Tensor) -> torch.Tensor:
    return (images.flatten(1) - 0.5) @ WEIGHTS


def make_batch(seed: int = 3) -> DefenceBatch:
    return DefenceBatch(linear, linear, IMAGES, TARGETS, seed)


@pytest.mark.parametrize("defence", EVERY, ids=lambda one: one.form)
def test_every_defence(defence: Defence) -> None:
    before = IMAGES.clone()
    images = defence.make_hard_images(make_batch())
    assert images.shape == IMAGES.shape and not images.requires_grad
    assert images.min() >= 0 and images.max() <= 1
    assert torch.equal(defence.make_hard_images(make_batch()), images)
    terms = defence.compute_losses(make_batch())
    assert all(one.shape == (4,) and one.isfinite().all() for one in terms.values())
    assert torch.equal(IMAGES, before)
    again = type(defence).model_validate(defence.model_dump())
    assert again == defence


def test_hybrid_is_cross_entropy_on_both() -> None:
    terms = Hybrid(representations=("bit_depth:bits=1",)).compute_losses(make_batch())
    for name, image in (("honest", IMAGES), ("represented", BitDepth(1)(IMAGES))):
        expected = F.cross_entropy(linear(image), TARGETS, reduction="none") / 2
        torch.testing.assert_close(terms[name], expected)


def test_one_representation_is_drawn_for_each_image() -> None:
    defence = Hybrid(representations=("bit_depth:bits=1", "floyd_steinberg"))
    values = set()
    for seed in range(8):
        images = defence.make_hard_images(make_batch(seed))
        for image, one, other in zip(
            images, BitDepth(1)(IMAGES), FloydSteinberg()(IMAGES), strict=True
        ):
            assert torch.equal(image, one) or torch.equal(image, other)
            values.add(torch.equal(image, one))
    assert values == {True, False}


def test_adversarial_is_cross_entropy_of_attacked_images() -> None:
    attacked = Pgd(8 / 255, steps=2, seed=3)(Untargeted(linear, TARGETS.argmax(1)), IMAGES)
    terms = Adversarial(attack=ATTACK, honest=0.25).compute_losses(make_batch())
    expected = F.cross_entropy(linear(attacked), TARGETS, reduction="none")
    torch.testing.assert_close(terms["attacked"], 0.75 * expected)
    clean = F.cross_entropy(linear(IMAGES), TARGETS, reduction="none")
    torch.testing.assert_close(terms["honest"], 0.25 * clean)
    behind = Adversarial(attack=ATTACK, behind="floyd_steinberg")
    images = behind.make_hard_images(make_batch())
    assert set(images.unique().tolist()) <= {0.0, 1.0}
    expected = F.cross_entropy(linear(images), TARGETS, reduction="none")
    torch.testing.assert_close(behind.compute_losses(make_batch())["attacked"], expected)
    assert set(behind.prepare_clean(IMAGES).unique().tolist()) <= {
        0.0,
        1.0,
    }  # clean images pass it, too
    assert behind.test_filters == ("floyd_steinberg",)
    assert Adversarial(attack=ATTACK).prepare_clean(IMAGES) is IMAGES
    assert Hybrid().test_filters == ("none", "floyd_steinberg")


def test_the_divergence_of_a_moved_set_is_its_distance() -> None:
    cloud = torch.randn(12, 5, generator=torch.Generator().manual_seed(2))
    shift = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    settled = {"blur": 1.0, "rounds": 2000, "threshold": 1e-7}
    far = sinkhorn_divergence(cloud, cloud + shift, **settled)
    assert far.item() == pytest.approx(shift.square().sum().item(), rel=1e-3)
    assert sinkhorn_divergence(cloud, cloud, **settled).item() == pytest.approx(0, abs=1e-5)
    one, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert sinkhorn_divergence(one, other, 1.0, 50).item() == pytest.approx(25)
    leaf = (cloud + shift).requires_grad_()
    sinkhorn_divergence(cloud, leaf, **settled).backward()
    assert torch.allclose(leaf.grad, 2 * shift / 12, atol=1e-2)  # type: ignore[arg-type]


def test_the_transport_is_that_of_the_published_iterations() -> None:
    first = torch.randn(3, 2, generator=torch.Generator().manual_seed(4)).double()
    second = torch.randn(4, 2, generator=torch.Generator().manual_seed(5)).double()

    def printed(xs: torch.Tensor, ys: torch.Tensor, blur: float) -> float:
        """min over plans of Σ P·C + blur·KL(P | a ⊗ b), by scaling a kernel's rows and columns."""
        cost = [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in ys] for x in xs]
        left, right = [1.0] * len(xs), [1.0] * len(ys)
        kernel = [[math.exp(-value / blur) for value in row] for row in cost]
        for _ in range(3000):
            for i, row in enumerate(kernel):
                left[i] = 1 / len(xs) / sum(k * r for k, r in zip(row, right, strict=True))
            for j in range(len(ys)):
                right[j] = 1 / len(ys) / sum(kernel[i][j] * left[i] for i in range(len(xs)))
        total = 0.0
        for i in range(len(xs)):
            for j in range(len(ys)):
                share = left[i] * kernel[i][j] * right[j]
                entropy = math.log(share * len(xs) * len(ys))
                total += share * (cost[i][j] + blur * entropy)
        return total

    one, other = first.tolist(), second.tolist()
    expected = printed(one, other, 0.7) - (printed(one, one, 0.7) + printed(other, other, 0.7)) / 2
    result = sinkhorn_divergence(first, second, 0.7, 3000, threshold=1e-12)
    assert result.item() == pytest.approx(expected, rel=1e-6)


def test_mistakes_are_found_before_the_first_step() -> None:
    with pytest.raises(ValidationError, match="no setting quick"):
        Adversarial(attack="pgd:quick=1")
    with pytest.raises(ConfigError, match="did you mean floyd_steinberg"):
        DEFENCES.parse({"defence": {"representations": ["floyd_steinburg"]}})
    with pytest.raises(ConfigError, match=r"no preset 'hybird'.*did you mean hybrid"):
        DEFENCES.parse({"preset": "hybird"})


def test_scratch_reinitialises_and_the_mode_of_layers_is_restored(tiny_card: Path) -> None:
    classifier = open_classifier(tiny_card)
    kept = copy_trainable(classifier)
    for (name, mine), its in zip(
        kept.state_dict().items(), classifier.module.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, its), name
    fresh = [copy_trainable(classifier, reinitialise=True, seed=seed) for seed in (0, 0, 1)]
    weights = [next(one.parameters()) for one in fresh]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    training = DefenceTraining(kept, classifier, DEFENCES.parse({}), 0)
    kept.train()
    next(one for one in kept.modules() if isinstance(one, nn.BatchNorm2d)).eval()
    before = [one.training for one in kept.modules()]
    training.compute_inference_logits(torch.rand(2, 3, 32, 32))
    assert [one.training for one in kept.modules()] == before


@pytest.mark.parametrize(
    ("defence", "own", "has_filters"),
    [
        (Standard(), None, False),
        (Hybrid(), "floyd_steinberg", True),
        (Hybrid(representations=("none", "jpeg:quality=60")), "jpeg:quality=60", True),
        (Hybrid(representations=("jpeg", "median")), None, True),
        (Adversarial(), None, False),
        (Adversarial(behind="bit_depth:bits=2"), "bit_depth:bits=2", True),
        (Sinkhorn(behind="jpeg"), "jpeg", True),
    ],
)
def test_a_defence_says_which_filter_stands_in_front(
    defence: Defence, own: str | None, has_filters: bool
) -> None:
    assert (defence.own_filter, defence.has_filters) == (own, has_filters)


@pytest.mark.parametrize("preset", ["standard", "hybrid"])
def test_a_filter_in_front_stays_unless_the_defence_has_its_own(
    preset: str, tiny_card: Path, tmp_path: Path
) -> None:
    start = Classifier(replace(open_classifier(tiny_card).network, filter="bit_depth:bits=1"))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = DEFENCES.parse({"preset": preset}).with_schedule(steps=1, batch=2)
    training = DefenceTraining(copy_trainable(start), start, settings, 0)
    seen = start if preset == "standard" else start.without_filter()
    torch.testing.assert_close(training.compute_inference_logits(images), seen(images))
    source = open_images("planted:size=32,images=6,classes=3")
    trainer = Trainer(start, source, tmp_path, Hardware("cpu"), say=lambda line: None)
    defended = fit_defence(settings, trainer).classifier
    expected = {"standard": "bit_depth:bits=1", "hybrid": "floyd_steinberg"}[preset]
    assert defended.network.filter == open_classifier(tmp_path).network.filter == expected


def test_a_temperature_is_not_carried_over_to_other_weights(
    tiny_card: Path, tmp_path: Path
) -> None:
    opened = open_classifier(tiny_card)
    start = Classifier(replace(opened.network, temperature=4.0, resolved_output=None))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(4 * start(images), opened(images))
    settings = DEFENCES.parse({"preset": "standard"}).with_schedule(steps=1, batch=2)
    training = DefenceTraining(copy_trainable(start), start, settings, 0)
    torch.testing.assert_close(training.compute_inference_logits(images), opened(images))
    targets = training.make_batch(images, None, 0).target_probabilities
    torch.testing.assert_close(targets, start.predict_probabilities(images))
    lines: list[str] = []
    source = open_images("planted:size=32,images=6,classes=3")
    trainer = Trainer(start, source, tmp_path, Hardware("cpu"), say=lines.append)
    defended = fit_defence(settings, trainer).classifier
    for classifier in (defended, open_classifier(tmp_path)):
        assert classifier.network.temperature is classifier.output.temperature is None
        torch.testing.assert_close(classifier(images), defended(images))
    assert sum("the new card has none" in line for line in lines) == 1


def test_a_network_that_predicts_one_class_is_warned_of() -> None:
    monitor = DegeneracyMonitor(DEGENERATE, patience=3)
    for _ in range(3):
        monitor.add({"classes": 0.1})
    assert "few of the classes (0.10" in str(monitor.warning())
    healthy = DegeneracyMonitor(DEGENERATE, patience=1)
    healthy.add({"classes": 0.9})
    assert healthy.warning() is None


def _make_several() -> Classifier:
    """A classifier that decides each of three classes by itself, and predicts none of grey."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    network[1].bias.data.fill_(-9.0)
    card = ClassifierCard(source="several", input=InputSpec(size=(8, 8)), output="sigmoid")
    return wrap_module(network, card)


def test_one_label_teaches_no_classifier_of_several_classes(tmp_path: Path) -> None:
    """It would teach that all other classes are absent."""
    source = open_images("planted:size=32,images=24,classes=3")
    settings = DEFENCES.parse({"preset": "standard", "wanted": "labels"})
    trainer = Trainer(_make_several(), source, tmp_path / "run", Hardware("cpu"))
    with pytest.raises(ConfigError, match="may predict several at once; set wanted: answers"):
        fit_defence(settings, trainer)
    assert not (tmp_path / "run").exists()


def test_right_is_what_is_predicted_of_several_classes() -> None:
    """Of two classes both are right, one, a wrong one besides, none; of no class, none is right."""
    targets = torch.tensor([[0.9, 0.8, 0.1]]).repeat(4, 1)
    targets = torch.cat([targets, torch.full((1, 3), 0.1)])
    logits = torch.tensor([[1.0, 1, -1], [1, -1, -1], [1, 1, 1], [-3, -2, -1], [-3, -2, -1]])
    batch = DefenceBatch(linear, linear, IMAGES[:1].repeat(5, 1, 1, 1), targets, 0, EACH_CLASS)
    expected = torch.tensor([1, 1 / 2, 2 / 3, 0, 1])
    torch.testing.assert_close(batch.measure_agreement(logits), expected)
    one = DefenceBatch(linear, linear, IMAGES, TARGETS, 0)
    assert one.measure_agreement(linear(IMAGES)).tolist() == [
        float(predicted == label)
        for predicted, label in zip(linear(IMAGES).argmax(1), TARGETS.argmax(1), strict=True)
    ]
    assert one.measure_agreement(TARGETS).tolist() == [1, 1, 1, 1]


def test_a_network_that_predicts_too_many_classes_is_not_right() -> None:
    """The classifier predicts none of the classes, the network all, in the same order."""
    classifier = _make_several()
    network = copy_trainable(classifier)
    training = DefenceTraining(network, classifier, DEFENCES.parse({}), 0)
    figures: dict[str, torch.Tensor] = {}
    training.log_terms = lambda terms, more: figures.update(more)  # type: ignore[method-assign]
    training.step_generator = lambda: torch.Generator().manual_seed(0)  # type: ignore[method-assign]
    for shift, right in ((0, 1), (18, 0)):
        list(network.parameters())[-1].data += shift
        training.training_step(torch.rand(4, 3, 8, 8), 0)
        assert {name: float(value) for name, value in figures.items()} == {
            "right": right,
            "classes": 1,
        }
