from __future__ import annotations

import numpy as np
import pytest
import torch

from apercu.metrics.total_variation import total_variation


def slow_total_variation(map: torch.Tensor) -> float:
    height, width = map.shape
    span, total = np.percentile(map.abs(), 99).item(), 0.0
    map = map.abs().clamp(max=span)
    for y in range(height):
        for x in range(width):
            if y + 1 < height:
                total += abs((map[y, x] - map[y + 1, x]).item()) / span
            if x + 1 < width:
                total += abs((map[y, x] - map[y, x + 1]).item()) / span
    return total / (height * width)


def test_is_the_literal_sum_over_neighbours() -> None:
    maps = torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(10))
    literal = [slow_total_variation(map) for map in maps]
    torch.testing.assert_close(total_variation(maps), torch.tensor(literal))


def test_closed_forms() -> None:
    maps = torch.full((3, 4, 6), 0.3)
    maps[0, :, 3:] = 5
    maps[1] = (torch.arange(4)[:, None] + torch.arange(6)) % 2
    edges = 4 * 5 + 3 * 6
    assert total_variation(maps).tolist() == pytest.approx([0.94 * 4 / 24, edges / 24, 0])


def test_one_pixel_of_many_and_no_pixel_at_all() -> None:
    maps = torch.zeros(2, 20, 20)
    maps[0, 7, 9] = -0.3
    assert total_variation(maps).tolist() == pytest.approx([4 / 400, 0])
