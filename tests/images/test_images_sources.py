"""Every source lists the names of its items without reading one."""

from __future__ import annotations

import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from PIL import Image

import apercu.images as images
from apercu.images import ImageSource, open_images
from apercu.images.alerts import STAMPS, AlertImages
from apercu.images.catalogue import LabelledImages
from apercu.images.folder import FolderImages
from apercu.images.names import shorten_name
from apercu.images.parquet import ParquetImages
from apercu.images.source import ChosenImages, JoinedImages
from apercu.images.stack import StackImages


def make_folder(path: Path) -> Path:
    for name in ("b", "a"):
        np.save(path / f"{name}.npy", np.full((4, 4), 0.5))
    return path


def make_parquet(path: Path) -> Path:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    pq.write_table(pa.table({"image": [stream.getvalue()] * 3}), path / "x.parquet")
    return path / "x.parquet"


def make_stack(path: Path) -> Path:
    np.savez(path / "x.npz", x=np.ones((3, 3, 4, 4)), id=np.array([5, 3, 4]))
    return path / "x.npz"


def make_alerts(path: Path) -> Path:
    fastavro = pytest.importorskip("fastavro")
    pixels = io.BytesIO()
    fits.PrimaryHDU(np.ones((4, 4), np.float32)).writeto(pixels)
    stamps = [{"name": name, "type": "bytes"} for name in STAMPS]
    fields = [{"name": "candid", "type": "long"}, *stamps]
    schema = {"type": "record", "name": "alert", "fields": fields}
    alerts = [{"candid": number, **dict.fromkeys(STAMPS, pixels.getvalue())} for number in (7, 8)]
    with (path / "x.avro").open("wb") as stream:
        fastavro.writer(stream, fastavro.parse_schema(schema), alerts)
    return path / "x.avro"


EXAMPLES: dict[type, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    AlertImages: (make_alerts, ("7", "8")),
    FolderImages: (make_folder, ("a.npy", "b.npy")),
    ParquetImages: (make_parquet, ("row-0", "row-1", "row-2")),
    images.Planted: (
        lambda path: "planted:images=2,size=32,split=test",
        ("test-000000", "test-000001"),
    ),
    StackImages: (make_stack, ("5", "3", "4")),
}


def list_subclasses(parent: type) -> Iterator[type]:
    """Yield the classes below a class, at any depth."""
    for child in parent.__subclasses__():
        yield child
        yield from list_subclasses(child)


def test_every_source_has_an_example() -> None:
    classes = {
        source_class
        for source_class in list_subclasses(ImageSource)
        if source_class.__module__.startswith("apercu.images")
        and not inspect.isabstract(source_class)
    }
    assert classes == {*EXAMPLES, ChosenImages, JoinedImages, LabelledImages}


def test_chosen_images_follow_their_indices(tmp_path: Path) -> None:
    source = open_images(make_stack(tmp_path))
    some = ChosenImages(source, (2, 0))
    again = ChosenImages(some, (1,))
    assert (some.names, again.names) == (("4", "5"), ("5",))
    assert [item.name for item in some] == ["4", "5"]
    assert again[0].name == again[-1].name == "5"
    assert (len(some), some.name, some.labelled) == (2, source.name, False)
    with pytest.raises(IndexError):
        some[2]


def test_joined_images_follow_each_other(tmp_path: Path) -> None:
    first, second = open_images(make_stack(tmp_path)), open_images("planted:images=2,size=32")
    joined = JoinedImages((first, second))
    names = [f"{source.name}/{name}" for source in (first, second) for name in source.names]
    assert [item.name for item in joined] == list(joined.names) == names
    assert (len(joined), joined.labelled, joined.class_names) == (5, False, None)
    assert joined[-1].label is None and second[1].label is not None
    assert bool((joined[-1].picture == second[1].picture).all())
    with pytest.raises(IndexError):
        joined[5]


@pytest.mark.parametrize("source_class", EXAMPLES, ids=lambda source_class: source_class.__name__)
def test_names_equal_those_of_the_items(source_class: type, tmp_path: Path, monkeypatch) -> None:
    make, names = EXAMPLES[source_class]
    source = open_images(make(tmp_path))
    assert type(source) is source_class
    with monkeypatch.context() as patch:
        patch.delattr(source_class, "__getitem__")
        assert source.names == names
    assert tuple(item.name for item in source) == names
    assert len(set(names)) == len(source) == len(names)
    assert pickle.loads(pickle.dumps(source)).names == names


def test_names_are_short_enough_for_a_file_system() -> None:
    names = ["x" * 244, "x" * 243 + "y", "é" * 122, "scan"]
    short = [shorten_name(name) for name in names]
    assert len(set(short)) == 4 and short[3] == "scan"
    assert all(len(name.encode()) <= 150 for name in short)
