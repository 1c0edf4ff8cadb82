from __future__ import annotations

from collections.abc import Callable
from math import ceil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods.rise import Rise, build_interpolation


def literal(
    classifier: Classifier, images: torch.Tensor, targets: torch.Tensor, rise: Rise
) -> torch.Tensor:
    """Petsiuk et al., section 3.2, one mask and one image at a time."""
    height, width = images.shape[2:]
    cell = (ceil(height / rise.cells), ceil(width / rise.cells))
    large = [(rise.cells + 1) * side for side in cell]
    generator = torch.Generator().manual_seed(rise.seed)
    maps = torch.zeros(len(images), height, width)
    for _ in range(rise.masks):
        draws = torch.rand(rise.cells**2 + 2, generator=generator)
        grid = (draws[:-2] < rise.keep).float().view(1, 1, rise.cells, rise.cells)
        up = F.interpolate(grid, large, mode="bilinear", align_corners=False)[0, 0]
        top, left = (int(draw * side) for draw, side in zip(draws[-2:].tolist(), cell, strict=True))
        mask = up[top : top + height, left : left + width]
        for index, target in enumerate(targets.tolist()):
            score = classifier(images[index : index + 1] * mask).softmax(dim=1)[0, target]
            maps[index] += score * mask / (rise.masks * rise.keep)
    return maps.detach()


@pytest.mark.parametrize(
    "rise",
    [Rise(masks=20, batch=7), Rise(masks=9, cells=5, keep=0.2, seed=3), Rise(masks=3, cells=40)],
)
def test_is_the_literal_sum_of_masks(
    rise: Rise, residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    expected = literal(residual, images, targets, rise)
    assert expected.flatten(1).std(dim=1).min() > 1e-3
    torch.testing.assert_close(rise(residual, images, targets), expected, atol=1e-6, rtol=1e-4)


class Spot(nn.Module):
    """The probability of class 0 is the brightness of one pixel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        share = images[:, 0, 9, 20]
        return torch.stack((share, 1 - share), dim=1).log()


@pytest.fixture
def spot(opened: Callable[[nn.Module], Classifier]) -> Classifier:
    return opened(Spot())


BRIGHT, FIRST = torch.full((1, 3, 24, 32), 0.8), torch.tensor([0])


def test_finds_the_only_position_that_counts(spot: Classifier) -> None:
    """The map is then the mean product of each pixel's mask with that of the position."""
    rise = Rise(masks=4000, batch=500)
    maps = rise(spot, BRIGHT, FIRST)[0]
    masks = torch.cat(list(rise._draw_masks((24, 32), BRIGHT)))
    values = masks[:, 9, 20]
    torch.testing.assert_close(maps, 0.8 * (values[:, None, None] * masks).mean(dim=0) / 0.5)
    assert maps.argmax() == 9 * 32 + 20
    assert maps[9, 20].item() == pytest.approx(1.6 * (0.25 + values.var().item()), abs=0.03)
    assert maps[0, 0].item() == pytest.approx(1.6 * 0.25, abs=0.03)


def test_masks_keep_the_requested_fraction_everywhere(images: torch.Tensor) -> None:
    for keep in (0.2, 0.7):
        masks = torch.cat(list(Rise(masks=3000, keep=keep)._draw_masks((24, 32), images)))
        assert masks.min() >= 0
        assert masks.max() <= 1
        assert (masks.mean(dim=0) - keep).abs().max() < 0.05


def test_the_batch_changes_only_how_many_are_computed_at_once(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    many, few = (Rise(masks=50, batch=size)(black_box, images, targets) for size in (1000, 7))
    torch.testing.assert_close(many, few, atol=1e-6, rtol=1e-5)


def test_queries_once_for_each_mask(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    before = residual.queries
    Rise(masks=130)(residual, images, targets)
    assert residual.queries - before == 3 * 130


class TestTolerance:
    def test_a_lower_tolerance_queries_more_and_is_more_exact(self, spot: Classifier) -> None:
        whole = Rise(masks=8000, batch=500)(spot, BRIGHT, FIRST)
        queries, errors = [], []
        for tolerance in (0.4, 0.18):
            before = spot.queries
            maps = Rise(masks=8000, tolerance=tolerance)(spot, BRIGHT, FIRST)
            queries.append(spot.queries - before)
            errors.append(((maps - whole).std() / whole.std()).item())
        assert 128 <= queries[0] < queries[1] < 8000
        assert errors[1] < errors[0]
        assert errors[1] < 0.25

    def test_each_image_stops_on_its_own(self, spot: Classifier) -> None:
        images = torch.cat((BRIGHT, BRIGHT / 8, 1 - BRIGHT / 8))
        targets = torch.tensor([0, 1, 1])
        rise = Rise(masks=3000, tolerance=0.2)
        together = rise(spot, images, targets)
        queries, each = spot.queries, []
        for index, one in enumerate(zip(images.split(1), targets.split(1), strict=True)):
            before = spot.queries
            torch.testing.assert_close(together[index], rise(spot, *one)[0])
            each.append(spot.queries - before)
        assert sum(each) == queries
        assert each[0] < each[1] == 3000  # the noise of the masks themselves hides little contrast

    def test_a_map_of_zeros_has_converged_at_once(self, spot: Classifier) -> None:
        before = spot.queries
        Rise(masks=2000, batch=10, tolerance=1e-3)(spot, torch.zeros_like(BRIGHT), FIRST)
        assert spot.queries - before == 20


def test_interpolation_is_that_of_torch() -> None:
    values = torch.rand(5, generator=torch.Generator().manual_seed(0))
    places = (torch.arange(13) + 0.5) * 5 / 13 - 0.5
    expected = F.interpolate(values[None, None], 13, mode="linear", align_corners=False)[0, 0]
    torch.testing.assert_close(build_interpolation(places[None], 5)[0] @ values, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masks": 0}, "masks of at least 1, got 0"),
        ({"cells": 0}, "cells of at least 1"),
        ({"batch": -1}, "batch of at least 1"),
        ({"keep": 0.0}, r"keep in \(0, 1\), got 0"),
        ({"keep": 1.0}, r"keep in \(0, 1\)"),
        ({"tolerance": -0.1}, "tolerance of at least 0"),
        ({"tolerance": float("nan")}, "tolerance of at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"rise: expected {message}"):
        Rise(**settings)  # type: ignore[arg-type]
