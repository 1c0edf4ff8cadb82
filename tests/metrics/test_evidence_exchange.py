"""Evidence exchange: only the pixels that a classifier uses change its decision when replaced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from apercu.metrics.evidence_exchange import (
    find_centres,
    measure_exchange,
    move_regions,
    replace_parts,
)


def read_left_half(images: Tensor) -> Tensor:
    """Logits of a classifier of two classes that adds up the left half: bright or dark."""
    total = images[..., : images.shape[3] // 2].mean((1, 2, 3)) - 0.5
    return torch.stack((8 * total, -8 * total), 1)


@pytest.fixture
def images() -> Tensor:
    """Two bright images of 4 × 8 pixels."""
    return torch.full((2, 1, 4, 8), 0.75)


def fill_columns(first: int, end: int) -> Tensor:
    regions = torch.zeros(2, 4, 8, dtype=torch.bool)
    regions[:, :, first:end] = True
    return regions


def test_only_the_part_that_is_used_changes_the_decision(images: Tensor) -> None:
    dark, targets = torch.zeros_like(images), torch.zeros(2, dtype=torch.long)
    used = measure_exchange(read_left_half, images, dark, fill_columns(0, 4), targets)
    unused = measure_exchange(read_left_half, images, dark, fill_columns(4, 8), targets)
    quarter = measure_exchange(read_left_half, images, dark, fill_columns(0, 1), targets)
    # the margin is 16 times the mean above a half: 4 before, 8 below 0 after
    assert used.changes.tolist() == [-12, -12] and used.flipped.tolist() == [1, 1]
    assert unused.changes.tolist() == [0, 0] and unused.flipped.tolist() == [0, 0]
    assert quarter.changes.tolist() == [-3, -3] and quarter.flipped.tolist() == [0, 0]


def test_the_reverse_gains_what_the_part_holds(images: Tensor) -> None:
    dark, targets = torch.zeros_like(images), torch.tensor([0, 1])
    pasted = measure_exchange(read_left_half, dark, images, fill_columns(0, 4), targets)
    assert pasted.changes.tolist() == [12, -12] and pasted.flipped.tolist() == [1, 1]


def test_a_sharp_part_is_taken_as_it_is(images: Tensor) -> None:
    others = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    regions = fill_columns(2, 5)
    before = images.clone()
    result = replace_parts(images, others, regions)
    assert torch.equal(result[:, :, :, 2:5], others[:, :, :, 2:5])
    assert torch.equal(result[:, :, :, :2], images[:, :, :, :2])
    assert torch.equal(result[:, :, :, 5:], images[:, :, :, 5:])
    assert torch.equal(images, before)


def test_a_soft_edge_blends_and_leaves_the_rest() -> None:
    wide = torch.full((1, 1, 64, 64), 0.75)
    regions = torch.zeros(1, 64, 64, dtype=torch.bool)
    regions[:, :, 32:] = True
    row = replace_parts(wide, torch.zeros_like(wide), regions, feather=1 / 32)[0, 0, 10]
    assert torch.allclose(row[:25], torch.tensor(0.75)) and row[40:].abs().max() < 1e-6
    assert (row.diff() <= 1e-6).all() and row[31] + row[32] == pytest.approx(0.75)
    assert row.diff().abs().max() < 0.2


def test_regions_move_and_leave_the_image() -> None:
    regions = fill_columns(1, 3)
    moved = move_regions(regions, torch.tensor([[1, 2], [-3, -2]]))
    expected = torch.zeros_like(regions)
    expected[0, 1:, 3:5] = True
    expected[1, :1, :1] = True
    assert torch.equal(moved, expected)
    assert not move_regions(regions, torch.tensor([[4, 0], [0, -9]])).any()


def test_centres_are_in_the_middle_of_regions() -> None:
    regions = fill_columns(1, 3)
    regions[1] = False
    assert find_centres(regions).tolist() == [[2, 2], [2, 4]]
