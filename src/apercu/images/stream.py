"""ImageSource -> batches, decoded by a few threads, a bounded number of pictures in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from apercu.errors import ImageError
from apercu.images.source import ImageSource
from apercu.types import Boxes, Images, Picture

THREADS = 4

PrepareFn = Callable[[Picture], Float[Tensor, "channels height width"]]


@dataclass(frozen=True, eq=False)
class Batch:
    """Prepared images and what is known of them; boxes and regions fit `images`.

    The fit assumes that `prepare` squashed the whole picture, as methods and metrics want it.
    """

    indices: tuple[int, ...]
    names: tuple[str, ...]
    images: Images
    labels: tuple[str | int | None, ...]
    boxes: tuple[Float[Tensor, "_ 4"] | None, ...]
    regions: tuple[Bool[Tensor, "height width"] | None, ...]
    """Of one size, that of `images`."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each picture before it was prepared."""


@dataclass(frozen=True, eq=False)
class _PreparedItem:
    index: int
    name: str
    image: Float[Tensor, "channels height width"]
    label: str | int | None
    boxes: Boxes | None
    region: Bool[Tensor, "height width"] | None
    size: tuple[int, int]


def batches(
    source: ImageSource,
    prepare: PrepareFn,
    size: int,
    *,
    indices: Iterable[int] | None = None,
    skip: Callable[[ImageError], None] | None = None,
) -> Iterator[Batch]:
    """Yields batches of `size` images in order; the last one may be smaller, none is empty.

    `indices` chooses and orders the images. With `skip` an image that cannot be read is handed
    there as its error and left out; without, the ImageError is raised. At most one batch and a few
    pictures are held at a time.
    """
    rows = _prepare_in_order(
        source, prepare, range(len(source)) if indices is None else indices, skip
    )
    while batch := list(islice(rows, size)):
        yield Batch(
            tuple(row.index for row in batch),
            tuple(row.name for row in batch),
            torch.stack([row.image for row in batch]),
            tuple(row.label for row in batch),
            tuple(row.boxes for row in batch),
            tuple(row.region for row in batch),
            tuple(row.size for row in batch),
        )


def _prepare_in_order(
    source: ImageSource,
    prepare: PrepareFn,
    indices: Iterable[int],
    skip: Callable[[ImageError], None] | None,
) -> Iterator[_PreparedItem]:
    """Keeps every thread busy with one image and one waiting, and hands results on in order."""
    pool = ThreadPoolExecutor(THREADS)
    waiting: deque[Future[_PreparedItem]] = deque()
    left = iter(indices)
    try:
        while True:
            for index in islice(left, 2 * THREADS - len(waiting)):
                waiting.append(pool.submit(_prepare_one, source, prepare, index))
            if not waiting:
                return
            try:
                yield waiting.popleft().result()
            except ImageError as error:
                if skip is None:
                    raise
                skip(error)
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_one(source: ImageSource, prepare: PrepareFn, index: int) -> _PreparedItem:
    item = source[index]
    image = prepare(item.picture)
    before = (item.picture.shape[1], item.picture.shape[2])
    after = (image.shape[1], image.shape[2])
    boxes = None if item.boxes is None else scale_boxes(item.boxes, before, after)
    region = None if item.region is None else resize_region(item.region, after)
    return _PreparedItem(index, item.name, image, item.label, boxes, region, before)


def scale_boxes(boxes: Boxes, before: tuple[int, int], after: tuple[int, int]) -> Boxes:
    """Boxes of a picture squashed from one (height, width) to another.

    >>> scale_boxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), (4, 4), (8, 2))
    tensor([[0.5000, 4.0000, 1.5000, 8.0000]])
    """
    across, down = after[1] / before[1], after[0] / before[0]
    return boxes * boxes.new_tensor([across, down, across, down])


def resize_region(
    region: Bool[Tensor, "height width"], after: tuple[int, int]
) -> Bool[Tensor, "rows columns"]:
    """A true mask squashed to another size: pixels at least half of which it covers."""
    if tuple(region.shape) == after:
        return region
    share = F.interpolate(
        region[None, None].float(), size=after, mode="bilinear", align_corners=False, antialias=True
    )
    return share[0, 0] >= 0.5
