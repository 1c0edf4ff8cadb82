from __future__ import annotations

import pytest
import torch

from apercu.metrics.energy import energy


def slow_energy(map: torch.Tensor, truth: torch.Tensor) -> float:
    pairs = list(zip(map.flatten().tolist(), truth.flatten().tolist(), strict=True))
    total = sum(value for value, _ in pairs if value > 0)
    return sum(value for value, true in pairs if value > 0 and true) / total


def test_is_the_literal_fraction_of_positive_values() -> None:
    generator = torch.Generator().manual_seed(4)
    maps = torch.randn(20, 5, 6, generator=generator)
    truths = torch.rand(20, 5, 6, generator=generator) < 0.4
    literal = [slow_energy(map, truth) for map, truth in zip(maps, truths, strict=True)]
    torch.testing.assert_close(energy(maps, truths), torch.tensor(literal))


def test_boxes_that_overlap_count_once() -> None:
    boxes = torch.tensor([[[0.0, 0, 2, 2], [1, 0, 3, 2]]])
    assert energy(torch.ones(1, 4, 4), boxes).item() == 6 / 16


def test_defined_where_there_is_nothing() -> None:
    truths = torch.zeros(4, 2, 4, dtype=torch.bool)
    truths[:3, :, :1] = True
    maps = torch.stack([torch.ones(2, 4), torch.zeros(2, 4), -torch.ones(2, 4), torch.ones(2, 4)])
    assert energy(maps, truths).tolist() == [0.25, 0, 0, 0]


def test_scale_does_not_matter_even_where_sums_would_overflow() -> None:
    maps, truths = torch.rand(1, 8, 8), torch.zeros(1, 8, 8).bool()
    truths[0, :3] = True
    expected = energy(maps, truths).item()
    assert energy(maps * 3e38, truths).item() == pytest.approx(expected, rel=1e-5)
    assert energy(maps * 1e-38, truths).item() == pytest.approx(expected, rel=1e-5)
