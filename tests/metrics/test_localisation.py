from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from apercu import maps
from apercu.metrics import box_iou, localisation_error


def test_box_iou_is_the_literal_count_of_pixels() -> None:
    generator = torch.Generator().manual_seed(1)
    corners = torch.randint(0, 12, (200, 2, 4), generator=generator).float()
    low = torch.minimum(corners[..., :2], corners[..., 2:])
    high = torch.maximum(corners[..., :2], corners[..., 2:])
    one, other = torch.cat((low, high), dim=-1).unbind(dim=1)
    first, second = maps.fill_boxes(one, (12, 12)), maps.fill_boxes(other, (12, 12))
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


def test_exactly_half_is_a_miss() -> None:
    truths = torch.tensor([[[0.0, 0, 10, 20]], [[0, 0, 10, 19]]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    assert localisation_error(boxes, truths).tolist() == [1, 0]


def test_an_empty_box_is_a_miss_even_without_truth() -> None:
    assert localisation_error(torch.zeros(1, 4), torch.zeros(1, 2, 4)).tolist() == [1]


def test_centre_and_whole_box_on_photographs(apercu_data: Path) -> None:
    """Known for these 500 photographs, squashed to 224 pixels: 45.0 % and 60.4 %."""
    folder = apercu_data / "data" / "imagenet-val"
    with (folder / "labels.csv").open() as file:
        sizes = {line["file"]: line for line in csv.DictReader(file)}
    truths: dict[str, list[list[float]]] = {name: [] for name in sizes}
    with (folder / "boxes.csv").open() as file:
        for line in csv.DictReader(file):
            across, down = (224 / int(sizes[line["file"]][side]) for side in ("width", "height"))
            left, right = (float(line[edge]) * across for edge in ("xmin", "xmax"))
            top, bottom = (float(line[edge]) * down for edge in ("ymin", "ymax"))
            truths[line["file"]].append([left, top, right, bottom])
    table = torch.zeros(len(truths), max(map(len, truths.values())), 4)
    for row, some in zip(table, truths.values(), strict=True):
        row[: len(some)] = torch.tensor(some)
    edge = 112 * (1 - 0.5**0.5)
    for box, expected in (([edge, edge, 224 - edge, 224 - edge], 0.450), ([0, 0, 224, 224], 0.604)):
        boxes = torch.tensor([box], dtype=torch.float32).expand(len(table), 4)
        assert localisation_error(boxes, table).mean().item() == pytest.approx(expected, abs=5e-4)
