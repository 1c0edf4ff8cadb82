from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from apercu.errors import ConfigError
from apercu.metrics.flipping import (
    DELETION,
    Flipping,
    FlippingCurves,
    compute_area,
    compute_calibration,
    dauc,
    dc,
    flip_pixels,
    iauc,
    ic,
    make_deletion_and_insertion,
)
from apercu.removal import Black, Mean

Ask = Callable[[torch.Tensor], torch.Tensor]
ONTO_WHITE = Flipping(Black(), insert=True)

INSERTION = make_deletion_and_insertion((0.5,))[1]


def says(score: Ask) -> Ask:
    """A classifier whose class 0 has this probability."""

    def answer(images: torch.Tensor) -> torch.Tensor:
        probability = score(images)
        return torch.stack((probability, 1 - probability), dim=1).log()

    return answer


def brightness(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(1, 2, 3))


def run(ask: Ask, maps: torch.Tensor, flipping: Flipping) -> FlippingCurves:
    """Flips white images."""
    count = len(maps)
    white = torch.ones(count, 1, *maps.shape[1:])
    return flip_pixels(ask, white, torch.zeros(count, dtype=torch.long), maps, flipping)


def test_a_score_of_the_fraction_that_is_left_has_an_area_of_one_half() -> None:
    maps = torch.rand(2, 56, 56, generator=torch.Generator().manual_seed(1))
    deletion = run(says(brightness), maps, DELETION)
    assert deletion.probabilities.shape == (2, 197)
    torch.testing.assert_close(dauc(deletion), torch.full((2,), 0.5), atol=1e-5, rtol=0)
    insertion = run(says(brightness), maps, ONTO_WHITE)
    torch.testing.assert_close(iauc(insertion), torch.full((2,), 0.5), atol=1e-5, rtol=0)


def test_a_constant_score_is_its_own_area_and_not_calibrated_at_all() -> None:
    maps = torch.rand(1, 56, 56)
    for ratio in (0.0, 0.3, 1.0):
        for flipping in (DELETION, INSERTION, replace(DELETION, cumulative=False)):
            result = run(
                says(lambda images, r=ratio: torch.full((len(images),), r)), maps, flipping
            )
            assert compute_area(result).item() == pytest.approx(ratio, abs=1e-6)
            assert compute_calibration(result).item() == 0


def test_random_scores_are_not_calibrated() -> None:
    generator = torch.Generator().manual_seed(2)
    maps = torch.rand(400, 14, 14, generator=generator)
    ask = says(lambda images: torch.rand(len(images), generator=generator))
    assert dc(run(ask, maps, DELETION)).mean().item() == pytest.approx(0, abs=0.01)
    assert ic(run(ask, maps, INSERTION)).mean().item() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("cumulative", [True, False])
def test_a_map_of_the_effects_is_perfectly_calibrated(cumulative: bool) -> None:
    worth = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    ask = says(lambda images: (images * worth).sum(dim=(1, 2, 3)) / worth.sum())
    maps = 3 * worth[0] - 1
    deletion = run(ask, maps, replace(DELETION, cumulative=cumulative))
    insertion = run(ask, maps, replace(ONTO_WHITE, cumulative=cumulative))
    assert dc(deletion).item() > 0.9999
    assert ic(insertion).item() > 0.9999
    assert dc(run(ask, -maps, replace(DELETION, cumulative=cumulative))).item() < -0.9999


def slow_flip(ask: Ask, image: torch.Tensor, map: torch.Tensor, how: Flipping) -> list[float]:
    """One image, one step, one pixel at a time."""
    other = how.removal.make_replacement(image[None])[0]
    start, end = (other, image) if how.insert else (image, other)
    pixels = sorted(
        ((y, x) for y in range(map.shape[0]) for x in range(map.shape[1])),
        key=lambda place: -map[place].item(),
    )
    curve, first = [], 0
    for step in range(how.steps + 1):
        last = step * len(pixels) // how.steps
        images = start.clone()
        for y, x in pixels[0 if how.cumulative else first : last]:
            images[:, y, x] = end[:, y, x]
        curve.append(ask(images[None]).softmax(dim=1)[0, 1].item())
        first = last
    return curve


@pytest.mark.parametrize("insert", [True, False])
@pytest.mark.parametrize("cumulative", [True, False])
def test_batches_give_the_curves_of_a_literal_loop(insert: bool, cumulative: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(3, 2, 6, 7, generator=generator)
    maps = torch.rand(3, 6, 7, generator=generator)
    maps[0] = (maps[0] * 3).round()
    weights = torch.randn(2 * 6 * 7, 3, generator=generator)
    how = Flipping(Mean(), insert, cumulative, steps=9, batch=7)

    def ask(some: torch.Tensor) -> torch.Tensor:
        return some.flatten(1) @ weights

    result = flip_pixels(ask, images, torch.ones(3, dtype=torch.long), maps, how)
    literal = [slow_flip(ask, *pair, how) for pair in zip(images, maps, strict=True)]
    torch.testing.assert_close(result.probabilities, torch.tensor(literal))
    heights = torch.tensor(literal)[:, 0 if cumulative else 1 :]
    steps = heights.shape[1] - 1
    torch.testing.assert_close(compute_area(result), torch.trapezoid(heights, dx=1 / steps))


def test_saliency_is_the_mean_of_the_stretched_map_over_each_step() -> None:
    maps = torch.arange(10.0).view(1, 2, 5) * 2 + 5
    result = run(says(brightness), maps, Flipping(Black(), steps=3))
    ends = [9 - position for position in (0, 3, 6, 10)]
    literal = [sum(range(b + 1, a + 1)) / (a - b) / 9 for a, b in pairwise(ends)]
    assert result.saliency[0].tolist() == pytest.approx(literal)


def test_a_batch_equals_its_singles_and_each_image_has_its_own_target() -> None:
    generator = torch.Generator().manual_seed(5)
    images, maps = torch.rand(3, 2, 8, 8, generator=generator), torch.rand(3, 8, 8)
    weights = torch.randn(2 * 8 * 8, 3, generator=generator)
    targets = torch.tensor([2, 0, 1])

    def ask(some: torch.Tensor) -> torch.Tensor:
        return some.flatten(1) @ weights

    whole = flip_pixels(ask, images, targets, maps, replace(INSERTION, steps=10))
    for index in range(3):
        row = slice(index, index + 1)
        single = flip_pixels(
            ask, images[row], targets[row], maps[row], replace(INSERTION, steps=10, batch=1)
        )
        torch.testing.assert_close(whole.probabilities[row], single.probabilities)
        torch.testing.assert_close(whole.saliency[row], single.saliency)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_a_constant_map_is_not_calibrated(value: float) -> None:
    result = run(says(brightness), torch.full((1, 13, 13), value), replace(DELETION, steps=20))
    assert dc(result).item() == 0
    assert dauc(result).item() == pytest.approx(0.5, abs=0.01)


def test_no_more_images_than_batch_are_computed_at_once_and_tiny_maps_take_a_step_per_pixel() -> (
    None
):
    sizes = []

    def ask(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return torch.zeros(len(images), 2)

    result = run(ask, torch.rand(2, 3, 3), Flipping(Black(), batch=8))
    assert result.probabilities.shape == (2, 10)
    assert sizes == [8, 8, 4]


@pytest.mark.parametrize("setting", [{"steps": 1}, {"batch": 0}])
def test_impossible_settings_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="flipping: expected at least 2 steps"):
        replace(DELETION, **setting)


def test_the_replacement_is_the_authors_in_normalised_images() -> None:
    """Deletion to 0, and a box of 45 pixels at 224 padded with zeros, both after normalisation."""
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], 0.25
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    deletion, insertion = make_deletion_and_insertion((0.5, 0.4, 0.3))
    assert insertion.insert and not deletion.insert
    zeros = (deletion.removal.make_replacement(images) - mean) / std
    torch.testing.assert_close(zeros, torch.zeros_like(images), atol=1e-6, rtol=0)
    box = torch.full((3, 1, 45, 45), 1 / 45**2)
    literal = torch.nn.functional.conv2d((images - mean) / std, box, padding=22, groups=3)
    blurred = (insertion.removal.make_replacement(images) - mean) / std
    torch.testing.assert_close(blurred, literal, atol=1e-4, rtol=0)
