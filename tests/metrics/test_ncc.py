from __future__ import annotations

from statistics import fmean, pstdev

import pytest
import torch

from apercu.metrics.ncc import ncc
from apercu.statistics import correlate_rows


def slow_ncc(map: torch.Tensor, truth: torch.Tensor) -> float:
    values, trues = map.flatten().tolist(), truth.flatten().double().tolist()
    standard = [[(value - fmean(row)) / pstdev(row) for value in row] for row in (values, trues)]
    return fmean(a * b for a, b in zip(*standard, strict=True))


def test_is_the_literal_mean_product_of_standardised_values() -> None:
    generator = torch.Generator().manual_seed(5)
    maps = torch.randn(20, 5, 6, generator=generator) * 100 + 7
    truths = torch.rand(20, 5, 6, generator=generator) < 0.4
    literal = [slow_ncc(map, truth) for map, truth in zip(maps, truths, strict=True)]
    torch.testing.assert_close(ncc(maps, truths), torch.tensor(literal))


def test_the_truth_itself_scores_one_and_its_opposite_minus_one() -> None:
    boxes = torch.tensor([[[1.0, 1, 3, 4]]])
    maps = torch.zeros(1, 6, 6)
    maps[0, 1:4, 1:3] = 0.1
    assert ncc(maps, boxes).item() == pytest.approx(1)
    assert ncc(-maps, boxes).item() == pytest.approx(-1)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-30, -1e30])
def test_constant_maps_and_truths_without_an_edge_score_zero(value: float) -> None:
    truths = torch.rand(3, 50, 50) < 0.5
    truths[1], truths[2] = False, True
    maps = torch.full((3, 50, 50), value)
    assert ncc(maps, truths).tolist() == [0, 0, 0]
    maps[1:] = torch.rand(2, 50, 50)
    assert ncc(maps, truths).tolist() == [0, 0, 0]


def test_correlation_agrees_with_torch() -> None:
    one, other = torch.randn(2, 1, 30, generator=torch.Generator().manual_seed(6))
    expected = torch.corrcoef(torch.cat((one, other)))[0, 1]
    torch.testing.assert_close(correlate_rows(one, other)[0], expected)
