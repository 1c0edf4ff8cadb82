"""For any bytes the reader returns a valid picture or raises ImageError, without a warning."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from apercu.errors import ImageError
from apercu.images import read_picture

BUDGET = settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def _seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a remark"
    plans = [
        (colour, "PNG", {"exif": exif}),
        (colour.convert("P"), "PNG", {"transparency": bytes(range(0, 250, 5))}),
        (Image.fromarray(rng.integers(0, 65536, (9, 12), dtype=np.uint16)), "PNG", {}),
        (colour, "JPEG", {"exif": exif}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour, "TIFF", {"exif": exif}),
        (colour.convert("L"), "TIFF", {"compression": "tiff_lzw"}),
        (colour.convert("RGBA"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        (Image.fromarray(rng.random((9, 12)).astype(np.float32)), "TIFF", {}),
        (colour, "GIF", {}),
        (colour, "GIF", {"save_all": True, "append_images": [colour.rotate(90)]}),
        (colour, "WEBP", {"exif": exif}),
        (colour.convert("RGBA"), "WEBP", {"lossless": True}),
        (colour, "BMP", {}),
        (colour.convert("1"), "BMP", {}),
    ]
    seeds = []
    for image, form, options in plans:
        stream = io.BytesIO()
        image.save(stream, form, **options)
        seeds.append(stream.getvalue())
    for array in (rng.random((3, 9, 12)), rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)):
        stream = io.BytesIO()
        np.save(stream, array)
        seeds.append(stream.getvalue())
    return seeds


SEEDS = _seeds()


def check(data: bytes, channels: int | None) -> bool:
    """Did the bytes give a picture? Fails on any error but ImageError, and on any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = read_picture(data, channels=channels)
        except ImageError as error:
            assert "\n" not in str(error)
            return False
    assert picture.dtype == torch.float32 and picture.ndim == 3 and picture.is_contiguous()
    assert channels is None or picture.shape[0] == channels
    assert torch.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1
    assert min(picture.shape[1:]) >= 2
    return True


def test_unchanged_files_are_read() -> None:
    assert all(check(seed, 3) for seed in SEEDS)


def test_mutated_bytes_are_read_or_refused() -> None:
    outcomes: set[bool] = set()

    @BUDGET
    @given(
        st.sampled_from(SEEDS),
        st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12),
        st.floats(0, 1),
        st.sampled_from([None, 1, 3, 4]),
    )
    def try_one(
        seed: bytes, changes: list[tuple[float, int]], kept: float, channels: int | None
    ) -> None:
        data = bytearray(seed)
        for position, value in changes:
            data[int(position * (len(data) - 1))] = value
        outcomes.add(check(bytes(data[: int(len(data) * min(1.0, 2 * kept))]), channels))

    try_one()
    assert outcomes == {True, False}


def test_mutated_headers() -> None:
    outcomes: set[bool] = set()

    @BUDGET
    @given(
        st.sampled_from(SEEDS),
        st.lists(st.tuples(st.integers(0, 63), st.integers(0, 255)), max_size=6),
    )
    def try_one(seed: bytes, changes: list[tuple[int, int]]) -> None:
        data = bytearray(seed)
        for position, value in changes:
            data[position % len(data)] = value
        outcomes.add(check(bytes(data), 3))

    try_one()
    assert outcomes == {True, False}


def test_random_tails() -> None:
    outcomes: set[bool] = set()

    @BUDGET
    @given(st.sampled_from([seed[:12] for seed in SEEDS] + [b""]), st.binary(max_size=200))
    def try_one(head: bytes, tail: bytes) -> None:
        outcomes.add(check(head + tail, None))

    try_one()
    assert False in outcomes


def test_random_headers_of_arrays() -> None:
    outcomes: set[bool] = set()

    @BUDGET
    @given(st.text("{}()':, <>|=abcdefuitrnsTF0123456789\\\n", max_size=80), st.binary(max_size=40))
    def try_one(header: str, body: bytes) -> None:
        text = header.encode("latin-1")
        outcomes.add(
            check(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body, None)
        )

    try_one()
    assert False in outcomes
