"""Objectives: the distance of maps while the class stays, averages over noise, the margin."""

from __future__ import annotations

import pytest
import torch

from apercu.errors import ConfigError
from apercu.filters import parse_filter
from apercu.robustness.attacks import Attack, Fgsm, IFgsm, Multiplicative, Pgd
from apercu.robustness.attacks.base import compute_gradients
from apercu.robustness.objectives import (
    ExpectationOverTransforms,
    MapDistance,
    Untargeted,
    negative_margin,
)
from apercu.robustness.plan import find_objective_name, parse_attack

IMAGES = 0.3 + 0.4 * torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.zeros(2).long()


def by_brightness(images: torch.Tensor) -> torch.Tensor:
    """The first class wherever the mean is below one half, by a wide margin."""
    score = 40 * (images.mean((1, 2, 3)) - 0.5)
    return torch.stack([-score, score], 1)


def by_pixel(images: torch.Tensor) -> torch.Tensor:
    return images[:, 0]


def test_a_map_moves_and_the_class_stays() -> None:
    dark = IMAGES - 0.1
    objective = MapDistance(by_brightness, by_pixel, LABELS, by_pixel(dark))
    torch.testing.assert_close(objective.score(dark), torch.zeros(2), atol=1e-4, rtol=0)
    assert not objective.is_adversarial(dark).any()
    result = Pgd(0.3, steps=40, pace=0.1)(objective, dark)
    assert objective.is_adversarial(result).all()
    assert (by_brightness(result).argmax(1) == 0).all()
    bright = 1 - dark  # its map is the opposite, but so is its class
    assert not objective.is_adversarial(bright).any()
    assert (objective.score(bright) < 0).all()


@pytest.mark.parametrize("attack", [Fgsm(0.05), IFgsm(0.05), Multiplicative(1.2)], ids=repr)
def test_without_a_random_start_a_map_is_moved_by_its_gradient(attack: Attack) -> None:
    """At the clean images the correlation is highest: its gradient is only rounding."""
    dark, smooth = IMAGES - 0.15, torch.nn.AvgPool2d(3, stride=1, padding=1)
    results, scores = [], []
    for scale in (1.0, 0.3):  # correlations do not depend on it, but roundings do

        def explain(images: torch.Tensor, scale: float = scale) -> torch.Tensor:
            return scale * smooth(images)[:, 0]

        objective = MapDistance(by_brightness, explain, LABELS, explain(dark))
        results.append(attack(objective, dark))
        scores.append(objective.score(results[-1]))
        assert torch.equal(attack(objective, dark), results[-1])
    alike = (results[0] - dark).sign() == (results[1] - dark).sign()
    assert alike.float().mean() > 0.97
    assert (scores[0] > 0.7 * objective.score(Pgd(0.05, steps=20)(objective, dark))).all()
    if isinstance(attack, Fgsm | IFgsm):
        assert (results[0] - dark).abs().max() <= attack.epsilon + 1e-6


def test_a_map_that_stays_in_place_is_worth_less_than_a_lost_class() -> None:
    objective = MapDistance(by_brightness, by_pixel, LABELS, by_pixel(IMAGES))
    kept, lost = IMAGES - 0.2, IMAGES + 0.2
    assert (objective.score(kept) > objective.score(lost)).all()


def test_noise_shows_a_gradient_that_a_staircase_hides() -> None:
    def stairs(images: torch.Tensor) -> torch.Tensor:
        """Steps of 1/8, whose gradient has the wrong sign."""
        level = (8 * images).floor() / 8
        teeth = -(images - level)
        return by_brightness(level.detach() + teeth)

    objective = Untargeted(stairs, LABELS)
    leaf = IMAGES.clone().requires_grad_()
    objective.score(leaf).sum().backward()
    assert (leaf.grad < 0).all()  # type: ignore[operator]
    expected = ExpectationOverTransforms(objective, copies=64, noise=0.1)
    values = [expected.score(IMAGES + shift).mean() for shift in (-0.1, 0.0, 0.1)]
    assert values[0] < values[1] < values[2]
    assert torch.equal(expected.score(IMAGES), expected.score(IMAGES))
    alone = ExpectationOverTransforms(Untargeted(stairs, LABELS[:1]), copies=64, noise=0.1)
    torch.testing.assert_close(alone.score(IMAGES[:1]), expected.score(IMAGES)[:1])


def test_a_margin_has_a_gradient_where_the_class_is_certain() -> None:
    def certain(images: torch.Tensor) -> torch.Tensor:
        """The first class with so much certainty that the probability of the other rounds to 0."""
        return 10 * by_brightness(images)

    dark = IMAGES - 0.25
    flat, steep = Untargeted(certain, LABELS), Untargeted(certain, LABELS, negative_margin)
    assert not compute_gradients(flat, dark)[0].any()
    result, lead = compute_gradients(steep, dark)
    assert (result > 0).all()
    torch.testing.assert_close(lead, 800 * (dark.mean((1, 2, 3)) - 0.5), atol=0.01, rtol=0)
    attack = Pgd(0.4, steps=10)
    assert not flat.is_adversarial(attack(flat, dark - 0.05)).any()
    assert steep.is_adversarial(attack(steep, dark - 0.05)).all()


def test_negative_margin_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, -1.0, 4.0]])
    torch.testing.assert_close(
        negative_margin(logits, torch.tensor([0, 2])), torch.tensor([-0.5, -4.0])
    )
    torch.testing.assert_close(
        negative_margin(logits, torch.tensor([1, 0])), torch.tensor([2.0, 4.0])
    )


def test_names_say_the_objective() -> None:
    names = ("pgd", "map_pgd:steps=3", "eot_fgsm", "margin_pgd")
    assert [find_objective_name(name) for name in names] == ["class", "map", "expected", "margin"]
    assert parse_attack("map_pgd:steps=3", 7) == Pgd(steps=3, seed=7)
    assert parse_attack("pgd:seed=2", 7) == Pgd(seed=2)
    assert parse_filter("none") is None
    with pytest.raises(
        ConfigError, match="map_sparse_evo uses no gradients, so it takes no prefix"
    ):
        parse_attack("map_sparse_evo")
    for name in (
        "map_deepfool",
        "eot_carlini_wagner",
        "margin_deepfool",
        "map_auto_attack:steps=3",
    ):
        prefix = name.partition("_")[0]
        with pytest.raises(
            ConfigError,
            match=f"{name} has an objective of its own, so it takes no prefix; "
            f"expected {prefix}_pgd",
        ):
            parse_attack(name)
    with pytest.raises(ConfigError, match="eot_margin_pgd: expected one of map_, eot_, margin_"):
        parse_attack("eot_margin_pgd")
    with pytest.raises(ConfigError, match=r"got pdg; did you mean pgd"):
        parse_attack("pdg")
    with pytest.raises(ConfigError, match="filters: expected some of none, floyd_steinberg"):
        parse_filter("halftone")
