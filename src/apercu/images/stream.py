"""`batches`: read the images of a source in batches, with a few threads and bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import islice

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apercu.errors import ApercuError, ImageError
from apercu.images.resizing import resize_picture
from apercu.images.source import ImageSource
from apercu.log import warn
from apercu.types import Boxes, Images, Picture

THREADS = 4
"""Threads that decode and prepare images."""
FIRST_UNREADABLE = 16
"""Images in a row at the beginning, of which one must be readable."""

PrepareFn = Callable[[Picture], Float[Tensor, "channels height width"]]
"""Converts a picture to the size of the classifier's input."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Prepared images with their labels, boxes and regions.

    Boxes and regions are scaled to `images`, under the assumption that the whole picture was
    squashed to the input size, without a crop.

    Attributes:
        indices: index of each image in its source.
        names: name of each image.
        images: images in [0, 1], `batch × channels × height × width`.
        labels: label of each image; None for one without.
        boxes: true boxes of each image in pixels, `boxes × 4`; None for an image without any.
        regions: true mask of each image, `height × width`; None for an image without one.
        sizes: height and width of each picture before it was prepared.
    """

    indices: tuple[int, ...]
    names: tuple[str, ...]
    images: Images
    labels: tuple[str | int | None, ...]
    boxes: tuple[Float[Tensor, "_ 4"] | None, ...]
    regions: tuple[Bool[Tensor, "height width"] | None, ...]
    sizes: tuple[tuple[int, int], ...]

    def choose(self, rows: Sequence[int]) -> Batch:
        """Return some of the images, in the order of their rows."""
        parts = {
            field.name: tuple(getattr(self, field.name)[row] for row in rows)
            for field in fields(self)
            if field.name != "images"
        }
        return replace(self, images=self.images[list(rows)], **parts)


@dataclass(frozen=True, eq=False)
class _PreparedItem:
    """One image of a batch."""

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
    """Yield the images of a source in batches; at most one batch and a few pictures are in memory.

    Args:
        source: the images.
        prepare: converts a picture to the size of the classifier's input.
        size: images per batch; the last batch may be smaller.
        indices: indices of the images to read, in this order; None reads all.
        skip: called with the error of each image that cannot be read, which is then left out;
            None raises the error.

    Yields:
        The batches, none of which is empty.

    Raises:
        ImageError: an image cannot be read, and `skip` is None.
    """
    order = range(len(source)) if indices is None else indices
    leave_out = None if skip is None else partial(_skip_error, skip)
    yield from _join_items(_prepare_in_order(source, prepare, order, leave_out), size)


@dataclass(eq=False)
class SkippingReader:
    """Reads the images of a source, leaves out those that cannot be read, and says so once.

    Args:
        source: the images.

    Attributes:
        readable: indices of the images that were read.
        errors: why images were left out, by their indices.
    """

    source: ImageSource
    readable: set[int] = field(default_factory=set, init=False)
    errors: dict[int, ApercuError] = field(default_factory=dict, init=False)
    _said: set[int] = field(default_factory=set, init=False)

    def read_batches(
        self, prepare: PrepareFn, size: int, *, indices: Iterable[int] | None = None
    ) -> Iterator[Batch]:
        """Yield images in batches, without those that cannot be read.

        Args:
            prepare: converts a picture to the size of the classifier's input.
            size: images per batch; the last batch may be smaller.
            indices: indices of the images to read, in this order; None reads all.

        Yields:
            The batches, none of which is empty.

        Raises:
            ImageError: none of the first `FIRST_UNREADABLE` images can be read.
        """
        order = range(len(self.source)) if indices is None else indices
        items = _prepare_in_order(self.source, prepare, order, self._leave_out)
        yield from _join_items(map(self._count, items), size)

    def warn_left_out(self) -> None:
        """Warn of the images that were left out, in one line; of each image only once.

        Raises:
            ImageError: no image was read, and some could not be.
        """
        if self.errors and not self.readable:
            raise next(iter(self.errors.values()))
        if self.errors.keys() - self._said:
            tried = len(self.readable) + len(self.errors)
            warn(describe_left_out(self.source.name, list(self.errors.values()), tried))
            self._said.update(self.errors)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the images that were left out, in the order of the source."""
        return list_names(self.source, self.errors)

    def leave_out(self, index: int, error: ApercuError) -> None:
        """Leave out an image that was read, but cannot be used.

        Args:
            index: the index of the image.
            error: why it cannot be used.

        Raises:
            ApercuError: this error, where none of the first `FIRST_UNREADABLE` images can be used.
        """
        self.readable.discard(index)
        self._leave_out(index, error)

    def _count(self, item: _PreparedItem) -> _PreparedItem:
        self.readable.add(item.index)
        return item

    def _leave_out(self, index: int, error: ApercuError) -> None:
        self.errors[index] = error
        if not self.readable and len(self.errors) >= FIRST_UNREADABLE:
            raise error


def describe_left_out(name: str, errors: Collection[ApercuError], tried: int) -> str:
    """Return the line that says how many images of a source are left out, and why the first one.

    Args:
        name: name of the source.
        errors: why images cannot be read, at least one.
        tried: number of images that were tried.

    Returns:
        One line without a full stop.
    """
    can = "read" if all(isinstance(error, ImageError) for error in errors) else "used"
    return (
        f"{name}: {len(errors)} of {tried} images cannot be {can} and are left out, the first "
        f"because {next(iter(errors))}"
    )


def list_names(source: ImageSource, indices: Collection[int]) -> tuple[str, ...]:
    """Return the names of some images of a source, in its order.

    Args:
        source: the images.
        indices: indices of some of them.

    Returns:
        The names.
    """
    if not indices:
        return ()
    names = source.names
    return tuple(names[index] for index in sorted(indices))


def list_unread(source: ImageSource, readable: Collection[int]) -> tuple[str, ...]:
    """Return the names of the images of a source that are not among the readable ones.

    Args:
        source: the images.
        readable: indices of the images that can be read.

    Returns:
        The names of the others.
    """
    return list_names(source, set(range(len(source))).difference(readable))


def list_left_out(*readers: SkippingReader) -> dict[str, list[str]]:
    """Return the names of the images that readers left out, by the name of their source.

    Args:
        readers: the readers of each source; those that left out nothing are not named.

    Returns:
        The names, as results record them.
    """
    names: dict[str, list[str]] = {}
    for reader in readers:
        known = names.get(reader.source.name, ())
        names[reader.source.name] = list(dict.fromkeys((*known, *reader.left_out)))
    return {source: left_out for source, left_out in names.items() if left_out}


def _skip_error(skip: Callable[[ImageError], None], index: int, error: ImageError) -> None:
    skip(error)


def _join_items(items: Iterator[_PreparedItem], size: int) -> Iterator[Batch]:
    """Join prepared images to batches."""
    while batch := list(islice(items, size)):
        yield Batch(
            indices=tuple(item.index for item in batch),
            names=tuple(item.name for item in batch),
            images=torch.stack([item.image for item in batch]),
            labels=tuple(item.label for item in batch),
            boxes=tuple(item.boxes for item in batch),
            regions=tuple(item.region for item in batch),
            sizes=tuple(item.size for item in batch),
        )


def _prepare_in_order(
    source: ImageSource,
    prepare: PrepareFn,
    indices: Iterable[int],
    skip: Callable[[int, ImageError], None] | None,
) -> Iterator[_PreparedItem]:
    """Prepare images in threads, with two images per thread in work or waiting, and keep order."""
    pool = ThreadPoolExecutor(THREADS)
    waiting: deque[tuple[int, Future[_PreparedItem]]] = deque()
    remaining = iter(indices)
    try:
        while True:
            for index in islice(remaining, 2 * THREADS - len(waiting)):
                waiting.append((index, pool.submit(_prepare_one, source, prepare, index)))
            if not waiting:
                return
            index, future = waiting.popleft()
            try:
                item = future.result()
            except ImageError as error:
                if skip is None:
                    raise
                skip(index, error)
                continue
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_one(source: ImageSource, prepare: PrepareFn, index: int) -> _PreparedItem:
    """Read and prepare one image, and scale its boxes and its region."""
    item = source[index]
    image = prepare(item.picture)
    before = (item.picture.shape[1], item.picture.shape[2])
    after = (image.shape[1], image.shape[2])
    boxes = None if item.boxes is None else scale_boxes(item.boxes, before, after)
    region = None if item.region is None else resize_region(item.region, after)
    return _PreparedItem(index, item.name, image, item.label, boxes, region, before)


def scale_boxes(boxes: Boxes, before: tuple[int, int], after: tuple[int, int]) -> Boxes:
    """Scale boxes with their picture.

    Args:
        boxes: boxes in pixels of the picture, `boxes × 4`.
        before: the (height, width) of the picture.
        after: the (height, width) that it is squashed to.

    Returns:
        Boxes in pixels of the squashed picture, `boxes × 4`.

    >>> scale_boxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), (4, 4), (8, 2))
    tensor([[0.5000, 4.0000, 1.5000, 8.0000]])
    """
    x, y = after[1] / before[1], after[0] / before[0]
    return boxes * boxes.new_tensor([x, y, x, y])


def resize_region(
    region: Bool[Tensor, "height width"], after: tuple[int, int]
) -> Bool[Tensor, "rows columns"]:
    """Resize a true mask to a (height, width): True where it covers at least half of a pixel."""
    if tuple(region.shape) == after:
        return region
    return resize_picture(region[None].float(), after)[0] >= 0.5
