"""Attacks: closed forms on linear classifiers, literal loops, and what holds for every attack."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from apercu import open_classifier
from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.filters.gaussian import blur
from apercu.robustness.attacks import (
    Attack,
    AutoAttack,
    CarliniWagner,
    DeepFool,
    Fgsm,
    IFgsm,
    Multiplicative,
    Pgd,
    SmoothPgd,
    SparseEvo,
)
from apercu.robustness.objectives import (
    ExpectationOverTransforms,
    MapDistance,
    Targeted,
    Untargeted,
)

WEIGHTS = torch.randn(48, generator=torch.Generator().manual_seed(0))
IMAGES = 0.3 + 0.4 * torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
EVERY: tuple[Attack, ...] = (
    Fgsm(),
    IFgsm(steps=3),
    SmoothPgd(steps=3, sigma=1.0),
    Pgd(steps=3),
    Pgd(steps=3, norm="l2", restarts=2),
    Multiplicative(steps=3),
    Multiplicative(steps=3, norm="l2"),
    DeepFool(steps=3),
    SparseEvo(queries=30),
)


def linear(images: torch.Tensor) -> torch.Tensor:
    """Two classes; the second has a score that is linear in the pixels."""
    score = (images.flatten(1) - 0.5) @ WEIGHTS
    return torch.stack([torch.zeros_like(score), score], 1)


def objective() -> Untargeted:
    return Untargeted(linear, linear(IMAGES).argmax(1))


def uphill() -> torch.Tensor:
    """The direction in which each image is less what it is."""
    predicted = linear(IMAGES).argmax(1)
    return torch.where(predicted == 1, -1.0, 1.0)[:, None, None, None] * WEIGHTS.view(1, 3, 4, 4)


@pytest.fixture
def classifier(tiny_card: Path) -> Classifier:
    return open_classifier(tiny_card)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def test_signed_attacks_end_in_a_corner_of_the_box_of_a_linear_classifier() -> None:
    corner = IMAGES + 0.05 * uphill().sign()
    torch.testing.assert_close(Fgsm(0.05)(objective(), IMAGES), corner)
    torch.testing.assert_close(IFgsm(0.05, steps=4)(objective(), IMAGES), corner)
    torch.testing.assert_close(Pgd(0.05, steps=9)(objective(), IMAGES), corner)


def test_pgd_in_a_ball_ends_where_the_gradient_meets_it() -> None:
    attacked = Pgd(0.02, steps=40, norm="l2")(objective(), IMAGES)
    direction = uphill() / WEIGHTS.norm()
    expected = IMAGES + 0.02 * math.sqrt(48) * direction
    torch.testing.assert_close(attacked, expected, atol=1e-3, rtol=0)


def test_deepfool_stops_at_a_linear_boundary() -> None:
    attacked = DeepFool(overshoot=0.02)(objective(), IMAGES)
    gap = linear(IMAGES)[:, 1].abs()
    distance = (attacked - IMAGES).flatten(1).norm(dim=1)
    torch.testing.assert_close(distance, 1.02 * (gap + 1e-4) / WEIGHTS.norm(), rtol=1e-3, atol=0)
    assert objective().is_adversarial(attacked).all()


def test_multiplied_pixels_end_at_the_ratio() -> None:
    attacked = Multiplicative(1.1, steps=8)(objective(), IMAGES)
    expected = IMAGES * torch.where(uphill() > 0, 1.1, 1 / 1.1)
    torch.testing.assert_close(attacked, expected.clamp(0, 1))
    ball = Multiplicative(1.1, steps=8, norm="l2")(objective(), IMAGES)
    root = (ball / IMAGES).log().flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(root, torch.full_like(root, math.log(1.1)), rtol=1e-3, atol=0)


def test_iterated_steps_are_the_printed_loop(classifier: Classifier, images: torch.Tensor) -> None:
    labels = classifier(images).argmax(1)
    attacked = IFgsm(8 / 255, steps=3, pace=0.4)(Untargeted(classifier, labels), images)
    for number in range(3):
        x = images[number : number + 1].clone()
        for _ in range(3):
            x.requires_grad_()
            loss = F.cross_entropy(classifier(x), labels[number : number + 1])
            (gradient,) = torch.autograd.grad(loss, x)
            x = (x + 0.4 * 8 / 255 * gradient.sign()).detach()
            original = images[number : number + 1]
            x = torch.max(torch.min(x, original + 8 / 255), original - 8 / 255).clamp(0, 1)
        torch.testing.assert_close(attacked[number], x[0])


def test_a_possible_target_is_predicted() -> None:
    targets = 1 - linear(IMAGES).argmax(1)
    towards = Targeted(linear, targets)
    attacked = Pgd(0.3, steps=10)(towards, IMAGES)
    assert towards.is_adversarial(attacked).all() and not towards.is_adversarial(IMAGES).any()


def test_restarts_keep_the_best_of_each_image(classifier: Classifier, images: torch.Tensor) -> None:
    goal = Untargeted(classifier, classifier(images).argmax(1))
    with torch.no_grad():
        one, four = (
            goal.score(Pgd(1 / 255, steps=1, restarts=count)(goal, images)) for count in (1, 4)
        )
    assert (four >= one).all() and (four > one).any()


def test_sparse_evo_changes_few_pixels_where_one_decides() -> None:
    def one_pixel(images: torch.Tensor) -> torch.Tensor:
        score = images[:, 0, 5, 7] - 0.5
        return torch.stack([torch.zeros_like(score), score], 1)

    queried: list[int] = []

    def counted(images: torch.Tensor) -> torch.Tensor:
        queried.append(len(images))
        return one_pixel(images)

    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(4))
    images[:, 0, 5, 7] = torch.tensor([0.1, 0.2, 0.8, 0.9])
    goal = Untargeted(counted, one_pixel(images).argmax(1))
    changed = {}
    for queries in (60, 600):
        queried.clear()
        attacked = SparseEvo(queries=queries)(goal, images)
        assert sum(queried) <= 4 * queries
        assert goal.is_adversarial(attacked).all()
        changed[queries] = (attacked != images).flatten(1).sum(1)
    assert (changed[600] < changed[60]).all()
    assert changed[600].max() <= 16


@pytest.mark.parametrize("queries", [1, 3, 12, 40])
def test_every_query_counts_and_no_more_are_made(queries: int) -> None:
    turns: list[int] = []

    def by_brightness(images: torch.Tensor) -> torch.Tensor:
        turns.append(len(images))
        score = images.mean((1, 2, 3)) - torch.tensor([0.5, 0.5, 0.5, 9.0])
        return torch.stack([torch.zeros_like(score), score], 1)

    images = torch.full((4, 1, 6, 6), 0.2)
    images[1] = 0.8
    images[2] = 0.3
    labels = torch.tensor([0, 1, 1, 0])  # the third is wrong already, the last cannot be
    attack = SparseEvo(queries=queries)
    attacked, queried = attack.attack_and_count(Untargeted(by_brightness, labels), images)
    assert len(turns) <= queries
    assert queried.tolist() == [queries, queries, 1, min(queries, 4 + 10)]
    assert torch.equal(attacked[2:], images[2:])
    assert torch.equal(attack(Untargeted(by_brightness, labels), images), attacked)
    alone = SparseEvo(queries=queries).attack_and_count
    only = Untargeted(lambda one: by_brightness(one.expand(4, -1, -1, -1))[:1], labels[2:3])
    assert alone(only, images[2:3])[1].tolist() == [1]


def test_without_an_adversarial_start_the_image_stays() -> None:
    goal = Untargeted(
        lambda images: torch.eye(2)[:1].expand(len(images), -1), torch.zeros(2).long()
    )
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(SparseEvo(queries=20)(goal, images), images)


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_every_attack(attack: Attack, classifier: Classifier, images: torch.Tensor) -> None:
    before = images.clone()
    goal = Untargeted(classifier, classifier(images).argmax(1))
    attacked = attack(goal, images)
    assert attacked.shape == images.shape and not attacked.requires_grad
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert torch.equal(images, before)
    assert all(p.grad is None for p in classifier.module.parameters())  # type: ignore[union-attr]
    assert torch.equal(attack(goal, images), attacked)
    assert (attacked - images).abs().max() > 0 or attack.needs == "decisions"
    if (epsilon := getattr(attack, "epsilon", None)) is not None:
        if getattr(attack, "norm", "linf") == "linf":
            assert (attacked - images).abs().max() <= epsilon + 1e-6
        else:
            assert (attacked - images).flatten(1).square().mean(1).sqrt().max() <= epsilon + 1e-6
    if attack.needs == "gradients":
        alone = attack(Untargeted(classifier, goal.labels[:1]), images[:1])
        assert (alone[0] - attacked[0]).abs().mean() < 1e-3  # signs of tiny gradients may differ


@pytest.mark.parametrize("attack", EVERY, ids=repr)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_every_attack_is_the_same_in_inference_mode(
    attack: Attack, mode: Callable[[], Any], classifier: Classifier, images: torch.Tensor
) -> None:
    labels = classifier(images).argmax(1)
    expected = attack(Untargeted(classifier, labels), images)
    with mode():
        attacked = attack(Untargeted(classifier, labels.clone()), images.clone())
    assert torch.equal(attacked, expected)


def test_objectives_made_in_inference_mode_have_gradients(
    classifier: Classifier, images: torch.Tensor
) -> None:
    def explain(batch: torch.Tensor) -> torch.Tensor:
        return batch.square().mean(1)

    def attack() -> list[torch.Tensor]:
        labels = classifier(images).argmax(1)
        objectives = (
            Targeted(classifier, (labels + 1) % 3),
            MapDistance(classifier, explain, labels, explain(images)),
            ExpectationOverTransforms(Untargeted(classifier, labels), copies=2),
        )
        return [Pgd(steps=2)(objective, images) for objective in objectives]

    with torch.inference_mode():
        attacked = attack()
    assert all(torch.equal(*pair) for pair in zip(attacked, attack(), strict=True))


def test_without_a_budget_nothing_changes(classifier: Classifier, images: torch.Tensor) -> None:
    goal = Untargeted(classifier, classifier(images).argmax(1))
    assert torch.equal(Multiplicative(1.0)(goal, images), images)
    for attack in (Fgsm(1e-7), IFgsm(1e-7), Pgd(1e-7), Pgd(1e-7, norm="l2")):
        torch.testing.assert_close(attack(goal, images), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Fgsm(-0.1), "fgsm: epsilon: expected a number above 0 and up to 1"),
        (lambda: Pgd(8.0), "pgd: epsilon: expected a number above 0 and up to 1"),
        (lambda: Pgd(0.0), "pgd: epsilon: expected a number above 0"),
        (lambda: Pgd(pace=0.0), "pgd: pace: expected a number above 0, got 0"),
        (lambda: Pgd(pace=math.nan), "pgd: pace: expected a number above 0, got nan"),
        (lambda: IFgsm(pace=math.inf), "i_fgsm: pace: expected a number above 0, got inf"),
        (lambda: Multiplicative(pace=-1.0), "mult: pace: expected a number above 0"),
        (lambda: DeepFool(overshoot=-0.1), "deepfool: overshoot: expected a number of at least 0"),
        (lambda: CarliniWagner(confidence=math.nan), "carlini_wagner: confidence: expected a num"),
        (lambda: IFgsm(steps=0), "i_fgsm: steps: expected a number of at least 1"),
        (lambda: Multiplicative(0.5), "mult: ratio: expected a factor from 1 to 10"),
        (lambda: SparseEvo(population=2), "sparse_evo: population"),
        (
            lambda: SparseEvo(initial=2.0),
            "sparse_evo: initial: expected a fraction from 0 to 1, got 2",
        ),
        (lambda: SparseEvo(mutation=-0.1), "sparse_evo: mutation: expected a fraction from 0 to 1"),
        (lambda: SparseEvo(crossover=math.nan), "sparse_evo: crossover: expected a fraction from"),
    ],
)
def test_impossible_budgets_are_refused(build, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=says):
        build()


REFUSE_A_CONSTANT: tuple[Attack, ...] = (
    *EVERY[:-1],
    AutoAttack(8 / 255, steps=2, queries=5),
    CarliniWagner(steps=2, searches=1),
)


@pytest.mark.parametrize("attack", REFUSE_A_CONSTANT, ids=repr)
def test_a_constant_objective_is_refused(attack: Attack) -> None:
    labels = torch.zeros(3).long()
    flat = Untargeted(lambda images: linear(0 * images + 0.5), labels)
    with pytest.raises(
        ClassifierError, match=r"objective is constant.*use a decision-based"
    ) as refused:
        attack(flat, IMAGES)
    assert "backward" not in str(refused.value)
    hidden = Untargeted(lambda images: linear(images.detach()), labels)
    with pytest.raises(ClassifierError, match="use a decision-based attack"):
        attack(hidden, IMAGES)
    weight = torch.zeros(2, requires_grad=True)  # of the network, not of the image
    with pytest.raises(ClassifierError, match="use a decision-based attack"):
        attack(Untargeted(lambda images: linear(images.detach()) + weight, labels), IMAGES)


def test_deepfool_has_no_target() -> None:
    with pytest.raises(
        ConfigError, match="deepfool: expected no target, as it looks for the nearest other class"
    ):
        DeepFool()(Targeted(linear, torch.zeros(3).long()), IMAGES)


def test_a_smooth_change_has_the_closed_form_of_a_linear_classifier() -> None:
    gradient = uphill().mean(1, keepdim=True)  # the loss has the same direction
    smooth = blur(gradient, 1.0)
    largest = smooth.abs().amax((1, 2, 3), keepdim=True)
    change = (2 * 0.25 * 0.02 * smooth / largest).clamp(-0.02, 0.02)
    attacked = SmoothPgd(0.02, steps=2, sigma=1.0)(objective(), IMAGES)
    torch.testing.assert_close(attacked, IMAGES + change.expand_as(IMAGES))
    assert (SmoothPgd(0.3, steps=20, sigma=1.0)(objective(), IMAGES) - IMAGES).abs().max() <= 0.3001


def clamped(images: torch.Tensor) -> torch.Tensor:
    """A classifier that is never surer than this, as one of probabilities is."""
    return linear(images).clamp(-3, 3)


CLIMBERS: tuple[Attack, ...] = (
    IFgsm(0.3, steps=9),
    Pgd(0.15, steps=9),
    Pgd(0.3, steps=9, norm="l2", restarts=2),
    Multiplicative(4.0, steps=9),
)


@pytest.mark.parametrize("attack", CLIMBERS, ids=repr)
def test_adversarial_images_do_not_change_further(attack: Attack) -> None:
    goal = Untargeted(clamped, linear(IMAGES).argmax(1))
    attacked = attack(goal, IMAGES)
    assert goal.is_adversarial(attacked).all()
    assert (clamped(attacked)[:, 1].abs() == 3).all()  # where there is no gradient any more
    assert attack(goal, attacked).shape == attacked.shape


@pytest.mark.parametrize("attack", [Fgsm(0.05), *CLIMBERS], ids=repr)
def test_an_image_on_a_plateau_changes_nothing_for_the_others(attack: Attack) -> None:
    plateau = 0.5 + 0.4 * WEIGHTS.sign().view(1, 3, 4, 4)
    mixed = torch.cat([plateau, IMAGES])
    labels = linear(mixed).argmax(1)
    attacked = attack(Untargeted(clamped, labels), mixed)
    for number in range(4):
        one = slice(number, number + 1)
        alone = attack(Untargeted(clamped, labels[one]), mixed[one])
        torch.testing.assert_close(attacked[one], alone)
    if not isinstance(attack, Pgd):  # which starts elsewhere
        torch.testing.assert_close(attacked[:1], plateau)
