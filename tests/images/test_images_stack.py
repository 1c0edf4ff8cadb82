"""Stacks in `.npz` files: ids, laziness, scaling, and what is refused."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apercu.errors import ImageError, ImagesError, InputError
from apercu.images import open_images
from apercu.images.formats import npz
from apercu.images.stack import StackImages

FLOATS = np.arange(4 * 2 * 3 * 5, dtype=np.float32).reshape(4, 2, 3, 5) * 8


def save_stack(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path / "s.npz", **arrays)
    return path / "s.npz"


def test_rows_are_raw_counts_and_nan_where_nothing_is_known(tmp_path: Path) -> None:
    values = FLOATS.astype(np.float16)
    values[1, 0, 0, :3] = np.nan, np.inf, -np.inf
    source = open_images(save_stack(tmp_path, stamps=values), channels=2)
    assert (len(source), source.labelled, source.class_names) == (4, False, None)
    np.testing.assert_array_equal(source[3].picture.numpy(), FLOATS[3])
    np.testing.assert_array_equal(source[-1].picture.numpy(), FLOATS[3])
    actual = source[1].picture.numpy()
    assert np.isnan(actual[0, 0]).tolist() == [True, True, True, False, False]
    np.testing.assert_array_equal(actual[1], FLOATS[1, 1])
    assert values[1, 0, 0, 1] == np.inf
    with pytest.raises(IndexError, match="image 4 of a source of 4"):
        source[4]


@pytest.mark.parametrize(
    ("kind", "full"), [("u1", 255), ("<u2", 65535), (">u2", 65535), (">f4", 1), ("f8", 1)]
)
def test_integers_are_scaled_and_floats_are_not(tmp_path: Path, kind: str, full: int) -> None:
    values = np.array([[[0, 1], [100, 255]]]).astype(kind)
    actual = open_images(save_stack(tmp_path, x=values), channels=1)[0].picture.numpy()
    np.testing.assert_allclose(actual, np.array([[[0, 1], [100, 255]]]) / full, rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({}, ("0", "1", "2", "3")),
        ({"candid": np.array([7, 9, 2**60 + 1, -1])}, ("7", "9", str(2**60 + 1), "-1")),
        ({"band": np.array(list("grgr")), "row": np.array(list("abcd"))}, tuple("abcd")),
        ({"a": np.arange(4), "b": np.arange(4)}, tuple("0123")),
        ({"a": np.arange(4), "id": np.array([b"x", b"y", b"z", b"w"])}, tuple("xyzw")),
        ({"id": np.arange(3), "name": np.array(list("abcd"))}, tuple("abcd")),
        ({"id": np.arange(4.0) / 2}, tuple("0123")),
    ],
)
def test_ids(tmp_path: Path, arrays: dict[str, Any], names: tuple[str, ...]) -> None:
    source = open_images(save_stack(tmp_path, stamps=FLOATS, **arrays), channels=2)
    assert source.names == names == tuple(item.name for item in source)


def test_pixels_are_read_once_by_each_process(tmp_path: Path, monkeypatch) -> None:
    path = save_stack(tmp_path, stamps=FLOATS, id=np.arange(4))
    source = open_images(path, channels=2)
    assert isinstance(source, StackImages) and source.pixels._values is None
    calls: list[str] = []

    def load_and_count(path: Path, name: str) -> Any:
        calls.append(name)
        return npz.load_array(path, name)

    monkeypatch.setattr("apercu.images.stack.load_array", load_and_count)
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda index: float(source[index].picture[0, 0, 1]), range(4)))
    assert actual == FLOATS[:, 0, 0, 1].tolist() and calls == ["stamps"]
    again = pickle.loads(pickle.dumps(source))
    assert again.pixels._values is None and len(pickle.dumps(source)) < 2000
    assert again[2].name == "2"
    source.pixels._process = os.getpid() + 1  # as it looks to the child of a fork,
    source.pixels._lock.acquire()  # while another thread of the parent was reading
    assert source[1].name == "1" and calls == ["stamps", "stamps"]


def test_one_channel_is_one(tmp_path: Path) -> None:
    stack = save_stack(tmp_path, x=FLOATS)
    with pytest.raises(ImagesError, match=r"expected 1 channel, got 2 in x"):
        open_images(stack, channels=1)


def test_a_row_without_pixels_is_refused(tmp_path: Path) -> None:
    values = FLOATS.copy()
    values[2] = np.nan
    source = open_images(save_stack(tmp_path, x=values, id=np.array(list("abcd"))), channels=2)
    with pytest.raises(ImageError, match=r"s\.npz c: expected pixels, got only NaN"):
        source[2]
    assert source[3].name == "d"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.arange(4)}, r"expected one array of 3 or 4 axes, .* got 0 \(x 4\)"),
        ({"x": FLOATS, "y": FLOATS[0]}, r"got 2 \(x 4 × 2 × 3 × 5, y 2 × 3 × 5\)"),
        ({"x": FLOATS.astype(int)}, "expected x to be float, uint8, uint16 or bool, got int64"),
        ({"x": FLOATS.astype(complex)}, "got complex128"),
        ({"x": FLOATS.astype(object)}, r"got 0 \(no arrays\)"),
        ({"x": FLOATS[:, :1]}, r"expected 2 channels, got 1 in x \(4 × 1 × 3 × 5\)"),
        ({"x": FLOATS[:, 0]}, "expected 2 channels, got 1 in x"),
        ({"x": FLOATS[:0]}, "no images, x has no rows"),
        ({"x": FLOATS[..., :1]}, "too small to explain"),
        ({"x": FLOATS, "id": np.array([1, 2, 2, 3])}, "expected each of id once, got 2 several"),
    ],
)
def test_other_archives_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = save_stack(tmp_path, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        open_images(path, channels=2)
    assert "\n" not in str(caught.value)


def test_too_large_archives_are_refused_by_their_headers(tmp_path: Path, monkeypatch) -> None:
    path = save_stack(tmp_path, x=np.zeros((4, 2, 300, 300)))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(npz, "MAX_ARRAY_BYTES", 1 << 20)
    with pytest.raises(ImagesError, match=r"x\.npy is too large, expected at most 1 MiB unpacked"):
        open_images(path, channels=2)
    monkeypatch.undo()
    stream = io.BytesIO()
    np.save(stream, np.zeros((4, 2, 3, 3)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", stream.getvalue().replace(b"(4, 2, 3, 3)", b"(9, 2, 3, 3)"))
    with pytest.raises(ImagesError, match=r"damaged, x\.npy is shorter than it says"):
        open_images(path, channels=2)


def test_damaged_archives_give_one_line(tmp_path: Path) -> None:
    path = save_stack(tmp_path, x=FLOATS)
    whole = path.read_bytes()
    path.write_bytes(b"PK nothing")
    with pytest.raises(ImagesError, match=r"damaged, or no \.npz archive .* \(BadZipFile\)"):
        open_images(path, channels=2)
    large = np.arange(4 * 2 * 60 * 60, dtype=np.float32).reshape(4, 2, 60, 60)
    np.savez(path, x=large)
    data = bytearray(path.read_bytes())
    data[data.index(large[2, 1].tobytes())] ^= 1
    path.write_bytes(data)
    source = open_images(path, channels=2)  # reads the headers alone
    with pytest.raises(ImagesError, match=r"damaged, .* \(BadZipFile\)"):
        source[0]
    path.write_bytes(whole)
    assert open_images(path, channels=2)[0].name == "0"


def test_mutated_bytes_are_read_or_refused(tmp_path: Path) -> None:
    outcomes: set[bool] = set()

    @settings(
        max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8), st.floats(0.4, 1))
    def try_one(changes: list[tuple[float, int]], kept: float) -> None:
        path = save_stack(tmp_path, x=FLOATS, id=np.array(list("abcd")))
        data = bytearray(path.read_bytes())
        for position, value in changes:
            data[int(position * (len(data) - 1))] = value
        path.write_bytes(data[: int(len(data) * min(1.0, 1.5 * kept))])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                pictures = [item.picture for item in open_images(path, channels=2)]
            except InputError as error:
                assert "\n" not in str(error)
                outcomes.add(False)
            else:
                outcomes.add(True)
                assert all(picture.shape[0] == 2 for picture in pictures)

    try_one()
    assert outcomes == {True, False}
