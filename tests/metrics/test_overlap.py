from __future__ import annotations

import pytest
import torch

from apercu.metrics import iou, mask_iou, mean_area


def slow_iou(map: torch.Tensor, truth: torch.Tensor) -> float:
    true = {place for place, value in enumerate(truth.flatten().tolist()) if value}
    values = map.flatten().tolist()
    order = sorted(range(len(values)), key=lambda place: -values[place])
    chosen = set(order[: len(true)])
    return len(chosen & true) / len(chosen | true) if true else 0.0


def test_iou_takes_as_many_pixels_as_are_true() -> None:
    generator = torch.Generator().manual_seed(2)
    maps = torch.rand(30, 6, 7, generator=generator)
    maps[:10] = (maps[:10] * 3).round()
    truths = torch.rand(30, 6, 7, generator=generator) < 0.3
    truths[0] = False
    literal = [slow_iou(map, truth) for map, truth in zip(maps, truths, strict=True)]
    torch.testing.assert_close(iou(maps, truths), torch.tensor(literal))


def test_iou_of_the_truth_itself_is_one_and_of_its_opposite_none() -> None:
    truths = torch.zeros(1, 4, 4, dtype=torch.bool)
    truths[0, :2, :2] = True
    assert iou(truths.float(), truths).item() == 1
    assert iou(-truths.float(), truths).item() == 0


def test_mask_iou_counts_pixels() -> None:
    one = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 1, 0]]]).bool()
    other = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 0, 0]], [[0, 0, 1, 0]]]).bool()
    assert mask_iou(one, other).tolist() == [pytest.approx(1 / 3), 0, 1]


def test_mean_area_is_the_share_that_a_mask_keeps() -> None:
    masks = torch.zeros(2, 4, 4)
    masks[0, :2] = 1
    masks[1] = 0.25
    assert mean_area(masks).tolist() == [0.5, 0.25]
