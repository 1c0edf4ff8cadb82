"""MaxBoxAccV2 (Choe et al. 2020): does a box around one part of the region match the object?

Maps, masks included, are first stretched to [0, 1]. The published figure takes, for each of three
overlaps, the threshold that is best on the very images that are reported, and is the mean over the
three. `apercu compare --protocol maxboxacc` chooses thresholds like this.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apercu.metrics.localisation import box_iou
from apercu.metrics.record import LevelScores, Metric
from apercu.types import Regions

OVERLAPS = (30, 50, 70)
"""The smallest intersections over union of a hit, in per cent."""


def box_accuracy(regions: Tensor, truths: Tensor, overlap: float) -> LevelScores:
    """Return 1 where a box around one connected part overlaps a true box, else 0.

    Parts are connected along rows, columns and diagonals. A region without a part scores 0.

    Args:
        regions: regions at each threshold, `levels × batch × height × width`, bool.
        truths: true boxes in pixels, `batch × truths × 4`; images with fewer of them are filled up
            with empty boxes.
        overlap: the smallest intersection over union of a hit.

    Returns:
        One score per threshold and image, `levels × batch`.
    """
    levels, count = regions.shape[:2]
    owner, boxes = find_part_boxes(regions.flatten(0, 1))
    true = truths.cpu()[owner % count]
    best = box_iou(boxes[:, None].expand_as(true), true).amax(dim=1)
    scores = torch.zeros(levels * count).scatter_reduce(0, owner, best, "amax")
    return (scores >= overlap).float().view(levels, count).to(regions.device)


def find_part_boxes(regions: Regions) -> tuple[Tensor, Tensor]:
    """Return the tight box of every connected part of some regions.

    >>> region = torch.tensor([[[1, 0, 0, 1], [0, 1, 0, 1]]], dtype=torch.bool)
    >>> find_part_boxes(region)
    (tensor([0, 0]), tensor([[0., 0., 2., 2.],
            [3., 0., 4., 2.]]))

    Args:
        regions: regions, `batch × height × width`, bool.

    Returns:
        The index of the region that each part belongs to, and the boxes of the parts in pixels,
        `parts × 4`.
    """
    height, width = regions.shape[1:]
    padded = np.zeros((len(regions) * height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = regions.cpu().flatten(0, 1).numpy()
    steps = np.diff(padded, axis=1)
    row, start = np.nonzero(steps == 1)  # runs of pixels, row by row
    _, end = np.nonzero(steps == -1)
    part = _connect_runs(row, start, end, height, width)
    roots, number = np.unique(part, return_inverse=True)
    low = np.full((len(roots), 2), max(height, width))
    high = np.zeros((len(roots), 2), dtype=low.dtype)
    for column, (first, last) in enumerate(((start, end), (row % height, row % height + 1))):
        np.minimum.at(low[:, column], number, first)
        np.maximum.at(high[:, column], number, last)
    owner = torch.from_numpy(row[roots] // height)
    return owner, torch.from_numpy(np.concatenate((low, high), axis=1)).float()


def _connect_runs(
    row: NDArray[np.intp],
    start: NDArray[np.intp],
    end: NDArray[np.intp],
    height: int,
    width: int,
) -> NDArray[np.intp]:
    """Return for each run of pixels the first run of its part; runs of neighbouring rows touch."""
    stride = width + 2
    first = np.searchsorted(row * stride + end, (row - 1) * stride + start, side="left")
    last = np.searchsorted(row * stride + start, (row - 1) * stride + end, side="right")
    counts = np.where(row % height == 0, 0, np.maximum(last - first, 0))
    below = np.repeat(np.arange(len(row)), counts)
    within = np.arange(len(below)) - np.repeat(counts.cumsum() - counts, counts)
    above = np.repeat(first, counts) + within
    part = np.arange(len(row))
    while True:
        before = part.copy()
        lowest = np.minimum(part[above], part[below])
        np.minimum.at(part, part[above], lowest)
        np.minimum.at(part, part[below], lowest)
        part = part[part]
        if (part == before).all():
            return part


def max_box_acc_30(regions: Tensor, truths: Tensor) -> LevelScores:
    """Return `box_accuracy` at an overlap of 0.3, `levels × batch`; higher is better."""
    return box_accuracy(regions, truths, 0.3)


def max_box_acc_50(regions: Tensor, truths: Tensor) -> LevelScores:
    """Return `box_accuracy` at an overlap of 0.5, `levels × batch`; higher is better."""
    return box_accuracy(regions, truths, 0.5)


def max_box_acc_70(regions: Tensor, truths: Tensor) -> LevelScores:
    """Return `box_accuracy` at an overlap of 0.7, `levels × batch`; higher is better."""
    return box_accuracy(regions, truths, 0.7)


def max_box_acc_v2(regions: Tensor, truths: Tensor) -> LevelScores:
    """Return the mean of `box_accuracy` over the overlaps 0.3, 0.5 and 0.7; higher is better.

    The published figure takes the best threshold of each overlap, not one for the three: as
    `apercu.compare` does, which gives the mean of `max_box_acc_30`, `_50` and `_70`.

    Args:
        regions: regions at each threshold, `levels × batch × height × width`, bool.
        truths: true boxes in pixels, `batch × truths × 4`.

    Returns:
        One score per threshold and image, `levels × batch`.
    """
    each = [box_accuracy(regions, truths, percent / 100) for percent in OVERLAPS]
    return torch.stack(each).mean(dim=0)


def _make_metric(function: Callable[..., LevelScores], percent: int) -> Metric:
    return Metric(
        name=f"max_box_acc_{percent}",
        function=function,
        takes=("normalised_regions", "true_boxes"),
        better="higher",
        title=f"MaxBoxAcc {percent}",
        phrase=f"MaxBoxAcc at {percent} %",
        meaning=f"images where a box around one part fits the true one (IoU ≥ 0.{percent // 10})",
        percent=True,
        decimals=1,
        by_name_only=True,
    )


MAX_BOX_ACC_30 = _make_metric(max_box_acc_30, 30)
MAX_BOX_ACC_50 = _make_metric(max_box_acc_50, 50)
MAX_BOX_ACC_70 = _make_metric(max_box_acc_70, 70)
MAX_BOX_ACC_V2 = Metric(
    name="max_box_acc_v2",
    function=max_box_acc_v2,
    takes=("normalised_regions", "true_boxes"),
    better="higher",
    title="MaxBoxAccV2",
    phrase="MaxBoxAccV2",
    meaning="mean of MaxBoxAcc at an overlap (IoU) of 0.3, 0.5 and 0.7",
    percent=True,
    decimals=1,
    by_name_only=True,
    mean_of=tuple(f"max_box_acc_{percent}" for percent in OVERLAPS),
)
