"""The class embedding by least squares, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Generator

from apercu.explainers.class_embedding import FeatureBatch, RidgeMoments, solve_ridge
from apercu.explainers.counterpart.training import DEGENERATE_COUNTERPARTS
from apercu.explainers.latent.training import DEGENERATE_CODES
from apercu.explainers.mask.training import DEGENERATE_MASKS
from apercu.networks.gate import ClassGate
from apercu.training.module import DegeneracyMonitor


def _problem() -> tuple[torch.Tensor, torch.Tensor]:
    generator = Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=generator) + 1.5
    truth = torch.randn(6, 4, generator=generator)
    return features, features @ truth + 0.5 + 0.1 * torch.randn(200, 4, generator=generator)


def test_ridge_is_numpys_least_squares_with_a_penalty() -> None:
    features, logits = _problem()
    moments = RidgeMoments(6, 4)
    for part in range(0, 200, 33):
        moments.add(features[part : part + 33], logits[part : part + 33])
    weights, bias = moments.solve(0.05)
    x, y = features.double().numpy(), logits.double().numpy()
    centred, outputs = x - x.mean(0), y - y.mean(0)
    ridge = 0.05 * centred.var(0).mean() * len(x)
    stacked = np.vstack([centred, np.sqrt(ridge) * np.eye(6)])
    padded = np.vstack([outputs, np.zeros((6, 4))])
    expected = np.linalg.lstsq(stacked, padded, rcond=None)[0].T
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), y.mean(0) - expected @ x.mean(0), atol=1e-4)
    mean, deviation = moments.scale()
    assert (mean, deviation) == pytest.approx((y.mean(), y.std()), rel=1e-6)


def _fit(
    gate: ClassGate, fitted: FeatureBatch, held_out: FeatureBatch | None, *penalties: float
) -> float:
    moments = RidgeMoments(fitted.pooled.shape[1], fitted.logits.shape[1])
    moments.add(*fitted)
    return solve_ridge(gate, moments, [] if held_out is None else [held_out], penalties)


def test_the_gate_answers_like_the_classifier() -> None:
    features, logits = _problem()
    gate = ClassGate(4, 6)
    parts = FeatureBatch(features[:180], logits[:180]), FeatureBatch(features[180:], logits[180:])
    assert _fit(gate, *parts, 1e-6) > 0.9
    result = gate.predict_logits(features[:, :, None, None])
    torch.testing.assert_close(result, gate.standardise(logits), rtol=0, atol=0.15)


def test_the_penalty_is_the_one_that_answers_best_for_images_held_out() -> None:
    generator = Generator().manual_seed(1)
    features = torch.randn(80, 50, generator=generator)
    signal = features @ torch.randn(50, 4, generator=generator) / 7
    logits = signal + 2 * torch.randn(80, 4, generator=generator)
    fitted, held_out = (
        FeatureBatch(features[rows], logits[rows]) for rows in (slice(60), slice(60, 80))
    )
    errors = {}
    for penalty in (1e-4, 0.1, 1.0, 1e4):
        gate = ClassGate(4, 50)
        _fit(gate, fitted, None, penalty)
        outputs = gate.predict_logits(features[60:, :, None, None])
        errors[penalty] = (outputs - gate.standardise(logits[60:])).square().mean().item()
    best = min(errors, key=lambda penalty: errors[penalty])
    assert best in (0.1, 1.0)
    chosen, alone = ClassGate(4, 50), ClassGate(4, 50)
    _fit(chosen, fitted, held_out, *errors)
    _fit(alone, fitted, None, best)
    torch.testing.assert_close(chosen.embedding, alone.embedding)


def _watch(true: float, fake: float | None, steps: int = 10) -> str | None:
    watch = DegeneracyMonitor(DEGENERATE_MASKS, patience=10)
    for _ in range(steps):
        watch.add({"area_true": true} | ({} if fake is None else {"area_fake": fake}))
    return watch.warning()


@pytest.mark.parametrize(
    ("true", "fake", "says"),
    [
        (0.001, 0.001, "masks are empty"),
        (0.99, 0.5, "masks are full"),
        (0.3, 0.29, "masks ignore the class"),
    ],
)
def test_trivial_answers_are_told(true: float, fake: float, says: str) -> None:
    assert str(_watch(true, fake)).startswith(says)


def test_sound_masks_and_early_steps_are_not_told() -> None:
    assert _watch(0.3, 0.05) is None
    assert _watch(0.3, None) is None
    assert _watch(0.001, 0.001, steps=9) is None


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({"change": 0.0001}, "both counterparts are the same"),
        ({"flipped": 0.1}, "adversarial images keep the decision"),
        ({"peak": 0.01}, "adversarial images are invisible noise"),
        ({"spread": 0.9}, "the difference is everywhere"),
        ({}, "None"),
    ],
)
def test_trivial_counterparts_are_told(odd: dict[str, float], says: str) -> None:
    watch = DegeneracyMonitor(DEGENERATE_COUNTERPARTS, patience=1)
    watch.add({"flipped": 0.97, "change": 0.02, "peak": 0.3, "spread": 0.2, **odd})
    assert str(watch.warning()).startswith(says)


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({"told": 0.02}, "codes say little of their images"),
        ({"misread": 1.4}, "the classifier's logits cannot be predicted from the codes"),
        ({}, "None"),
    ],
)
def test_useless_codes_are_told(odd: dict[str, float], says: str) -> None:
    watch = DegeneracyMonitor(DEGENERATE_CODES, patience=1)
    watch.add({"told": 0.7, "misread": 0.4, **odd})
    assert str(watch.warning()).startswith(says)


def test_one_odd_step_is_not_a_trend() -> None:
    watch = DegeneracyMonitor(DEGENERATE_MASKS, patience=1)
    for _ in range(20):
        watch.add({"area_true": 0.3, "area_fake": 0.02})
    watch.add({"area_true": 0.0, "area_fake": 0.9})
    assert watch.warning() is None
