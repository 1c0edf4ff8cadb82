from __future__ import annotations

import pytest
import torch

from apercu.metrics import iou, mean_area


def test_iou_counts_pixels() -> None:
    one = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 1, 0]]]).bool()
    other = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 0, 0]], [[0, 0, 1, 0]]]).bool()
    assert iou(one, other).tolist() == [pytest.approx(1 / 3), 0, 1]


def test_mean_area_is_the_fraction_that_a_mask_keeps() -> None:
    masks = torch.zeros(2, 4, 4)
    masks[0, :2] = 1
    masks[1] = 0.25
    assert mean_area(masks).tolist() == [0.5, 0.25]
