from __future__ import annotations

from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
import torch

from apercu.metrics.percentile_iou import iou_at_area, iou_over_percentiles


def cases(levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    maps = (torch.randn(30, 6, 7, generator=generator) * levels).round()
    return maps, torch.rand(30, 6, 7, generator=generator) < 0.3


def slow_iou(chosen: np.ndarray, truth: np.ndarray) -> float:
    return float((chosen & truth).sum() / (chosen | truth).sum())


def test_over_percentiles_is_the_literal_mean_over_cuts() -> None:
    for levels in (1, 3, 1000):
        maps, truths = cases(levels)
        literal = [
            fmean(slow_iou(map >= cut, truth) for cut in np.percentile(map, range(101)))
            for map, truth in zip(maps.double().numpy(), truths.numpy(), strict=True)
        ]
        result = iou_over_percentiles(maps.double(), truths)
        torch.testing.assert_close(result, torch.tensor(literal), atol=1e-6, rtol=0)


def test_at_area_takes_as_many_pixels_as_are_true() -> None:
    generator = torch.Generator().manual_seed(8)
    maps = torch.stack([torch.randperm(42, generator=generator).view(6, 7) for _ in range(30)])
    truths = cases(1)[1]
    truths[0] = False
    literal = [0.0]
    for map, truth in zip(maps[1:].numpy(), truths[1:].numpy(), strict=True):
        highest = np.sort(map, axis=None)[::-1][: truth.sum()]
        literal.append(slow_iou(np.isin(map, highest), truth))
    torch.testing.assert_close(iou_at_area(maps.float(), truths), torch.tensor(literal))


def test_at_area_of_the_truth_itself_is_one_and_of_its_opposite_none() -> None:
    truths = torch.zeros(1, 4, 4, dtype=torch.bool)
    truths[0, :2, :2] = True
    assert iou_at_area(truths.float(), truths).item() == 1
    assert iou_at_area(-truths.float(), truths).item() == 0


def test_equal_values_overlap_the_truth_as_a_fair_draw_does_on_average() -> None:
    map = torch.tensor([[3.0, 2, 2, 2, 1, 0]])
    truth = torch.tensor([[True, True, False, True, False, False]])
    overlaps = [1 + truth[0, list(chosen)].sum().item() for chosen in combinations((1, 2, 3), 2)]
    mean = fmean(overlaps)
    assert iou_at_area(map[None], truth[None]).item() == pytest.approx(mean / (6 - mean))


def test_no_position_is_favoured() -> None:
    truths = torch.zeros(2, 4, 4, dtype=torch.bool)
    truths[0, 0], truths[1, 3] = True, True
    chance = (4 * 4 / 16) / (8 - 4 * 4 / 16)
    assert iou_at_area(torch.ones(2, 4, 4), truths).tolist() == pytest.approx([chance] * 2)
    assert iou_over_percentiles(torch.ones(2, 4, 4), truths).tolist() == [0.25, 0.25]


def test_defined_without_truth_and_with_nothing_else() -> None:
    truths = torch.zeros(2, 4, 4, dtype=torch.bool)
    truths[1] = True
    maps = torch.rand(2, 4, 4)
    assert iou_at_area(maps, truths).tolist() == [0, 1]
    assert iou_over_percentiles(maps, truths)[0].item() == 0
    assert iou_over_percentiles(torch.rand(1, 1, 1), truths[1:, :1, :1]).item() == 1
