"""Batches: in order, complete, fitted to the prepared size, and never many at once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from apercu.errors import ImageError
from apercu.images import Item, Planted, batches
from apercu.images.source import ImageSource
from apercu.images.stream import FIRST_UNREADABLE, SkippingReader, list_left_out, resize_region
from apercu.log import redirect_warnings


@dataclass(frozen=True)
class NumberedImages(ImageSource):
    """Pictures that tell their index; some cannot be read; early ones are slow."""

    length: int
    unreadable: tuple[int, ...] = ()
    name = "counted"
    class_names = None
    labelled = True

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.length)))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Item:
        if index in self.unreadable:
            raise ImageError(f"{index}: not an image")
        time.sleep(0.003 * (index % 3 == 0))
        region = torch.zeros(4, 8, dtype=torch.bool)
        region[:2, 4:] = True
        boxes = torch.tensor([[4.0, 0.0, 8.0, 2.0]])
        return Item(str(index), torch.full((1, 4, 8), index / 100), index, boxes, region)


def squash(picture: Tensor) -> Tensor:
    return F.interpolate(picture[None], size=(2, 2))[0]


def test_order_and_sizes() -> None:
    actual = list(batches(NumberedImages(23), squash, 5))
    assert [len(batch.names) for batch in actual] == [5, 5, 5, 5, 3]
    assert [index for batch in actual for index in batch.indices] == list(range(23))
    assert [label for batch in actual for label in batch.labels] == list(range(23))
    pixels = torch.cat([batch.images for batch in actual])
    assert pixels.shape == (23, 1, 2, 2)
    torch.testing.assert_close(pixels[:, 0, 0, 0], torch.arange(23) / 100)


def test_boxes_and_regions_fit_the_prepared_images() -> None:
    (batch,) = batches(NumberedImages(1), squash, 5)
    assert batch.sizes == ((4, 8),)
    assert batch.boxes[0] is not None and batch.regions[0] is not None
    assert batch.boxes[0].tolist() == [[1, 0, 2, 1]]
    assert batch.regions[0].tolist() == [[False, True], [False, False]]


def test_a_region_keeps_its_area_when_squashed() -> None:
    region = Planted(size=96)[3].region
    assert region is not None
    small = resize_region(region, (48, 48))
    assert abs(float(small.float().mean() - region.float().mean())) < 0.01
    assert torch.equal(resize_region(region, (96, 96)), region)


def test_chosen_indices() -> None:
    actual = list(batches(NumberedImages(9), squash, 2, indices=[8, 1, 5]))
    assert [batch.indices for batch in actual] == [(8, 1), (5,)]


def test_unreadable_images_raise_or_are_skipped() -> None:
    source = NumberedImages(10, unreadable=(2, 9))
    with pytest.raises(ImageError, match="2: not an image"):
        list(batches(source, squash, 4))
    skipped: list[ImageError] = []
    actual = list(batches(source, squash, 4, skip=skipped.append))
    assert [batch.indices for batch in actual] == [(0, 1, 3, 4), (5, 6, 7, 8)]
    assert [str(error) for error in skipped] == ["2: not an image", "9: not an image"]


def test_reading_does_not_run_ahead() -> None:
    read: set[int] = set()

    def prepare_and_note(picture: Tensor) -> Tensor:
        read.add(round(float(picture[0, 0, 0]) * 100))
        return squash(picture)

    stream = batches(NumberedImages(90), prepare_and_note, 4)
    next(stream)
    time.sleep(0.1)
    assert len(read) <= 4 + 8
    before = threading.active_count()
    stream.close()
    assert threading.active_count() < before


def test_a_reader_leaves_out_and_says_so_once() -> None:
    source = NumberedImages(23, (3, 22))
    reader, lines = SkippingReader(source), list[str]()
    with redirect_warnings(lines.append):
        for _ in range(2):
            read = list(reader.read_batches(squash, 5))
            reader.warn_left_out()
    assert [index for batch in read for index in batch.indices] == [*range(3), *range(4, 22)]
    assert lines == [
        "counted: 2 of 23 images cannot be read and are left out, the first because 3: not an image"
    ]
    assert reader.left_out == ("3", "22")
    other = SkippingReader(source)
    list(other.read_batches(squash, 5, indices=(0, 1)))
    assert list_left_out(other) == {} and list_left_out(other, reader) == {"counted": ["3", "22"]}


def test_a_reader_stops_where_nothing_can_be_read() -> None:
    first = FIRST_UNREADABLE
    reader = SkippingReader(NumberedImages(40, tuple(range(1, 1 + first))))
    assert [len(batch.names) for batch in reader.read_batches(squash, 64)] == [40 - first]
    reader = SkippingReader(NumberedImages(40, tuple(range(first))))
    with pytest.raises(ImageError, match=rf"^{first - 1}: not an image$"):
        list(reader.read_batches(squash, 64))
    reader = SkippingReader(NumberedImages(4, tuple(range(4))))
    assert list(reader.read_batches(squash, 2)) == []
    with pytest.raises(ImageError, match=r"^0: not an image$"):
        reader.warn_left_out()
