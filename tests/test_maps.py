from __future__ import annotations

import pytest
import torch

from apercu import maps


def test_resize_aligns_pixel_centres_not_corners() -> None:
    coarse = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    fine = maps.resize_maps(coarse, (4, 4))
    line = torch.tensor([0.0, 0.25, 0.75, 1.0])
    expected = line[None, :] + 2 * line[:, None]
    torch.testing.assert_close(fine[0], expected)


def test_resize_to_the_same_size_changes_nothing() -> None:
    given = torch.rand(2, 5, 7)
    assert torch.equal(maps.resize_maps(given, (5, 7)), given)


def test_regions_include_the_threshold_itself() -> None:
    assert maps.find_regions(torch.tensor([[[0.49, 0.5, 0.51]]]), 0.5).tolist() == [
        [[False, True, True]]
    ]


def slow_box(region: torch.Tensor) -> list[float]:
    positions = region.nonzero().tolist()
    if not positions:
        return [0, 0, 0, 0]
    ys, xs = [y for y, _ in positions], [x for _, x in positions]
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def test_tight_boxes_are_the_literal_extent() -> None:
    generator = torch.Generator().manual_seed(0)
    density = torch.tensor([0.0, 0.01, 0.03, 0.1, 1.0]).repeat(20)[:, None, None]
    some = torch.rand(100, 9, 13, generator=generator) < density
    assert maps.tight_boxes(some).tolist() == [slow_box(region) for region in some]


def test_box_of_one_corner_pixel() -> None:
    region = torch.zeros(1, 4, 6, dtype=torch.bool)
    region[0, 3, 5] = True
    assert maps.tight_boxes(region).tolist() == [[5, 3, 6, 4]]


def test_fill_boxes_is_the_inverse_of_tight_boxes() -> None:
    some = torch.tensor([[1.0, 2, 4, 3], [0, 0, 0, 0], [0, 0, 6, 5]])
    filled = maps.fill_boxes(some, (5, 6))
    assert filled.sum(dim=(1, 2)).tolist() == [3, 0, 30]
    assert torch.equal(maps.tight_boxes(filled), some)


def test_fill_boxes_takes_every_pixel_that_is_touched() -> None:
    filled = maps.fill_boxes(torch.tensor([[0.9, 1.0, 2.1, 2.0]]), (3, 4))
    assert maps.tight_boxes(filled).tolist() == [[0, 1, 3, 2]]


def test_min_max_scale_is_per_map_and_constant_maps_become_zeros() -> None:
    given = torch.tensor([[[-2.0, 0.0, 2.0]], [[5.0, 5.0, 5.0]], [[1.0, 3.0, 2.0]]])
    expected = torch.tensor([[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]], [[0.0, 1.0, 0.5]]])
    torch.testing.assert_close(maps.min_max_scale(given), expected)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_min_max_scale_removes_offset_and_scale(shift: float) -> None:
    given = torch.rand(3, 4, 4)
    torch.testing.assert_close(
        maps.min_max_scale(3 * given + shift), maps.min_max_scale(given), atol=1e-4, rtol=0
    )
