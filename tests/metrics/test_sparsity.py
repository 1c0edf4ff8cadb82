from __future__ import annotations

import pytest
import torch

from apercu.metrics.sparsity import sparsity


def test_is_the_maximum_over_the_mean_of_the_stretched_map() -> None:
    maps = torch.randn(10, 5, 6, generator=torch.Generator().manual_seed(9))
    literal = []
    for map in maps:
        stretched = (map - map.min()) / (map.max() - map.min())
        literal.append((stretched.max() / stretched.mean()).item())
    torch.testing.assert_close(sparsity(maps), torch.tensor(literal))


def test_closed_forms() -> None:
    maps = torch.zeros(3, 4, 5)
    maps[0, 2, 2] = 7
    maps[1, :2] = -1
    assert sparsity(maps).tolist() == pytest.approx([20, 2, 1])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3.0])
def test_a_constant_map_is_not_focused_at_all(value: float) -> None:
    assert sparsity(torch.full((1, 4, 4), value)).item() == 1
