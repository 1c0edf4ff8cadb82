from __future__ import annotations

import torch

from apercu import maps
from apercu.metrics import box_iou, localisation_error


def test_box_iou_is_the_literal_count_of_pixels() -> None:
    generator = torch.Generator().manual_seed(1)
    corners = torch.randint(0, 12, (200, 2, 4), generator=generator).float()
    low = torch.minimum(corners[..., :2], corners[..., 2:])
    high = torch.maximum(corners[..., :2], corners[..., 2:])
    one, other = torch.cat((low, high), dim=-1).unbind(dim=1)
    first, second = maps.fill(one, (12, 12)), maps.fill(other, (12, 12))
    shared = (first & second).sum(dim=(1, 2))
    union = (first | second).sum(dim=(1, 2))
    literal = [s / u if u else 0.0 for s, u in zip(shared.tolist(), union.tolist(), strict=True)]
    torch.testing.assert_close(box_iou(one, other), torch.tensor(literal))


def test_one_true_box_out_of_several_is_enough() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1)
    truths = torch.tensor(
        [
            [[50.0, 50, 60, 60], [1, 0, 10, 10]],
            [[50, 50, 60, 60], [0, 0, 0, 0]],
            [[0, 0, 10, 10], [0, 0, 0, 0]],
        ]
    )
    assert localisation_error(boxes, truths).tolist() == [0, 1, 0]


def test_exactly_half_is_not_found() -> None:
    truths = torch.tensor([[[0.0, 0, 10, 20]], [[0, 0, 10, 19]]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    assert localisation_error(boxes, truths).tolist() == [1, 0]


def test_an_empty_box_is_a_miss_even_without_truth() -> None:
    assert localisation_error(torch.zeros(1, 4), torch.zeros(1, 2, 4)).tolist() == [1]
