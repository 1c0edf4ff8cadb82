"""Areas under curves against numeric integration, correlations against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import spearmanr

from apercu.robustness.curves import (
    area_under_accuracy_curve,
    compute_norms,
    measure_correctness_at,
    overlap_of_strongest,
)
from apercu.robustness.jobs import Job, expand_budgets
from apercu.robustness.plan import parse_attack
from apercu.statistics import spearman


def test_the_area_is_that_of_trapezia_from_the_clean_accuracy() -> None:
    correct = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=float)
    budgets = [0.0, 0.01, 0.04]
    by_hand = ((0.75 + 0.5) / 2 * 0.01 + (0.5 + 0.25) / 2 * 0.03) / 0.04
    areas = area_under_accuracy_curve(correct, budgets)
    assert areas.mean() == pytest.approx(by_hand)
    assert areas.mean() == pytest.approx(trapezoid(correct.mean(1), budgets) / 0.04)
    assert areas[0] == pytest.approx(1) and areas[3] == 0


def test_the_area_of_a_fine_curve_is_its_integral() -> None:
    smallest = np.array([0.0, 0.01, 0.02, 0.02, 0.5, np.inf])
    budgets = np.linspace(0, 0.03, 3001).tolist()
    correct = measure_correctness_at(smallest, budgets)
    assert correct[0].mean() == pytest.approx(5 / 6) and correct[-1].mean() == pytest.approx(2 / 6)
    exact = np.minimum(smallest, 0.03) / 0.03
    assert area_under_accuracy_curve(correct, budgets).tolist() == pytest.approx(
        exact.tolist(), abs=1e-3
    )


def test_norms_by_hand() -> None:
    images = torch.zeros(1, 3, 2, 2)
    attacked = images.clone()
    attacked[0, 0, 0, 0], attacked[0, 1, 0, 0] = 0.3, -0.4
    norms = {name: values.item() for name, values in compute_norms(images, attacked).items()}
    assert norms["linf"] == pytest.approx(0.4)
    assert norms["l2"] == pytest.approx((0.25 / 12) ** 0.5)
    assert norms["l0"] == 0.25


def test_rank_correlations_are_those_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    before = (5 * torch.rand(3, 8, 9, generator=generator)).round()
    after = before + (4 * torch.rand(3, 8, 9, generator=generator)).round()
    expected = [
        spearmanr(one.flatten().numpy(), two.flatten().numpy()).statistic
        for one, two in zip(before, after, strict=True)
    ]
    assert spearman(before.flatten(1), after.flatten(1)).tolist() == pytest.approx(
        expected, abs=1e-5
    )
    assert spearman(before.flatten(1), torch.zeros_like(after).flatten(1)).tolist() == [0, 0, 0]


def test_overlap_of_the_strongest_fifth() -> None:
    before = torch.arange(10.0).view(1, 2, 5)
    assert overlap_of_strongest(before, before).item() == 1
    after = before.clone()
    after[0, 0, 0] = 99  # of {8, 9} only 9 stays
    assert overlap_of_strongest(before, after).item() == pytest.approx(1 / 3)


def test_the_norm_of_every_attack() -> None:
    names = {
        "pgd": "linf",
        "pgd:norm=l2": "l2",
        "square": "linf",
        "auto_attack": "linf",
        "mult": "linf",
        "deepfool": "l2",
        "carlini_wagner": "l2",
        "hop_skip_jump": "l2",
        "hop_skip_jump:norm=linf": "linf",
        "sparse_evo": "l0",
    }
    cases = expand_budgets({name: parse_attack(name) for name in names}, (8 / 255,))
    norms = {name: Job(name, budget, attack, None).norm for (name, budget), attack in cases.items()}
    assert norms == names
