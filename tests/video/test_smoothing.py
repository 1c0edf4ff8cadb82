"""Calm maps, what calm costs, and a class that stays, each against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from apercu.classifiers.names import TOP_INDEX
from apercu.deploy.video.frame_explainer import CLASS_HALF_LIFE, SWITCH_RATIO, StableClass
from apercu.deploy.video.motion import (
    FlickerMeter,
    MapSmoother,
    Motion,
    compute_flicker,
    shift_values,
)
from apercu.errors import ConfigError

STILL = Motion()


@pytest.fixture
def maps() -> np.ndarray:
    return np.random.default_rng(0).random((6, 8, 10), np.float32)


def test_the_mean_is_that_of_halves(maps) -> None:
    """After equal steps: weights that halve with every half-life, the first map's not reduced."""
    smoothing, step = MapSmoother(0.4), 0.1
    displayed = [smoothing(m, STILL if n else None, step) for n, m in enumerate(maps)]
    kept = 0.5 ** (step / 0.4)
    weights = [kept**5] + [(1 - kept) * kept ** (5 - n) for n in range(1, 6)]
    expected = sum(w * m for w, m in zip(weights, maps, strict=True))
    np.testing.assert_allclose(displayed[-1], expected, atol=1e-6)


def test_time_counts_not_frames(maps) -> None:
    often, seldom = MapSmoother(0.4), MapSmoother(0.4)
    often(maps[0], None, 0.0)
    seldom(maps[0], None, 0.0)
    for _ in range(4):
        last = often(maps[1], STILL, 0.1)
    np.testing.assert_allclose(last, seldom(maps[1], STILL, 0.4), atol=1e-6)
    np.testing.assert_allclose(last, (maps[0] + maps[1]) / 2, atol=1e-6)


def test_maps_follow_the_picture(maps) -> None:
    smoothing = MapSmoother(0.4)
    smoothing(maps[0], None, 0.0)
    since = Motion(down=1 / 8, right=-2 / 10)
    result = smoothing(maps[1], since, 0.4)
    np.testing.assert_allclose(result, (shift_values(maps[0], 1.0, -2.0) + maps[1]) / 2, atol=1e-5)


def test_a_beginning_knows_nothing_before_and_zero_changes_nothing(maps) -> None:
    smoothing, off = MapSmoother(0.4), MapSmoother(0.0)
    for one in maps[:2]:
        smoothing(one, None, 0.1)
        assert off(one, STILL, 0.1) is one
    np.testing.assert_array_equal(smoothing(maps[2], None, 0.1), maps[2])
    with pytest.raises(ConfigError, match=r"smoothing: expected seconds, 0 or more, got -1\.0"):
        MapSmoother(-1.0)


def test_flicker_is_the_change_that_motion_does_not_explain(maps) -> None:
    assert compute_flicker(maps[0], maps[1], STILL) == pytest.approx(
        abs(maps[0] - maps[1]).mean(), 1e-5
    )
    since = Motion(down=2 / 8)
    assert compute_flicker(maps[0], shift_values(maps[0], 2.0, 0.0), since) == pytest.approx(
        0, abs=1e-6
    )
    assert compute_flicker(maps[0], shift_values(maps[0], 2.0, 0.0), STILL) > 0.1


def test_the_meter_adds_up_what_can_be_compared(maps) -> None:
    meter = FlickerMeter()
    raw, smoothed = maps, maps * np.float32(0.5)
    for number in range(6):
        meter.add(raw[number], smoothed[number], None if number in (0, 3) else STILL)
    result = meter.summary
    pairs = [(0, 1), (1, 2), (3, 4), (4, 5)]  # 3 begins another scene
    expected = np.mean([abs(raw[a] - raw[b]).mean() for a, b in pairs])
    assert result is not None
    assert result.pairs == 4
    assert result.raw == pytest.approx(expected, rel=1e-5)
    assert result.smoothed == pytest.approx(expected / 2, rel=1e-5)
    assert result.lag == pytest.approx(abs(raw - smoothed).mean(), rel=1e-5)


def test_without_a_pair_nothing_is_measured(maps) -> None:
    meter = FlickerMeter()
    assert meter.summary is None
    meter.add(maps[0], maps[0], None)
    assert meter.summary is None


def test_smoothing_lowers_the_flicker_of_noise_as_theory_says(maps) -> None:
    """Independent noise through a first-order filter: the change falls by about 1 − kept."""
    generator, kept = np.random.default_rng(1), 0.5**0.25
    smoothing, meter = MapSmoother(0.4), FlickerMeter()
    for number in range(400):
        raw = generator.normal(0.5, 0.1, (8, 10)).astype(np.float32)
        since = STILL if number else None
        meter.add(raw, smoothing(raw, since, 0.1), since)
    result = meter.summary
    assert result is not None
    variance = 2 * (1 - kept) ** 3 / (1 - kept**2)  # of a step of the filter, noise of 1
    assert result.smoothed / result.raw == pytest.approx((variance / 2) ** 0.5, rel=0.08)


def probabilities(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_class_does_not_change_from_frame_to_frame() -> None:
    steady = StableClass()
    assert steady.next_target == TOP_INDEX
    displayed = [
        steady.update(probabilities(*(pair if n % 2 else pair[::-1])), 0.04)[0]
        for n, pair in enumerate([(0.55, 0.45)] * 50)
    ]
    assert displayed == [1] * 50


def test_another_class_is_shown_once_its_mean_leads() -> None:
    steady, mean = StableClass(), np.array([0.9, 0.1])
    steady.update(probabilities(0.9, 0.1), 0.0)
    kept, frames = 0.5 ** (0.04 / CLASS_HALF_LIFE), 0
    while mean[1] <= SWITCH_RATIO * mean[0]:
        mean = kept * mean + (1 - kept) * np.array([0.1, 0.9])
        frames += 1
    displayed = [steady.update(probabilities(0.1, 0.9), 0.04) for _ in range(frames + 1)]
    assert [index for index, _ in displayed] == [0] * frames + [
        1
    ]  # what was asked for before it led
    assert displayed[frames - 1][1] == pytest.approx(mean[0], rel=1e-5)
    assert 0.2 < frames * 0.04 < 1


def test_another_scene_is_seen_afresh() -> None:
    steady = StableClass()
    steady.update(probabilities(1.0, 0.0), 0.0)
    steady.reset()
    assert steady.next_target == TOP_INDEX
    assert steady.update(probabilities(0.2, 0.8), 0.04) == (1, pytest.approx(0.8))


def test_a_fixed_class_stays() -> None:
    steady = StableClass(0)
    for _ in range(3):
        assert steady.next_target == 0
        assert steady.update(probabilities(0.2, 0.8), 1.0) == (0, pytest.approx(0.2))
        steady.reset()
