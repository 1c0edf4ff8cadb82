"""Costly pictures are decoded apart: limited in time and memory, and nobody waits for them."""

from __future__ import annotations

import asyncio
import io
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from apercu.classifiers import InputSpec
from apercu.deploy.serving import decoding
from apercu.deploy.serving.app import WorkerClient
from apercu.deploy.serving.decoder import DecoderSetup
from apercu.deploy.serving.decoding import DecoderProcess, DecodingClient, estimate_cost
from apercu.deploy.serving.prepared_image import PreparedImage, read_pixel_count
from apercu.deploy.serving.requests import ExplainRequest, RequestOptions
from apercu.deploy.serving.responses import ExplainResponse
from apercu.errors import ApercuError
from apercu.images.stretch import Stretch

SPEC = InputSpec(size=(24, 32))


def _encode(kind: str, width: int = 60, height: int = 50, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "options", "scans"),
    [
        ("JPEG", {}, 1),
        ("JPEG", {"exif": b"Exif\0\0" + bytes(200)}, 1),
        ("JPEG", {"progressive": True}, 10),
        ("PNG", {}, 1),
        ("GIF", {}, 1),
        ("BMP", {}, 1),
        ("WEBP", {}, 1),
        ("WEBP", {"lossless": True}, 1),
        ("WEBP", {"exif": b"Exif\0\0" + bytes(20)}, 1),
    ],
)
def test_the_header_tells_the_work(kind, options, scans) -> None:
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("webp: Pillow has none")
    content = _encode(kind, **options)
    assert read_pixel_count(content) == 3000 * scans
    assert estimate_cost(content) is None
    for length in range(0, min(len(content), 400), 7):  # cut short
        assert (read_pixel_count(content[:length]) or 0) <= 3000 * scans * 100


def test_what_is_costly() -> None:
    large = io.BytesIO()
    Image.new("1", (2500, 2000)).save(large, "PNG")
    assert estimate_cost(large.getvalue()) == 5_000_000
    assert estimate_cost(_encode("TIFF")) is not None
    assert estimate_cost(b"SIMPLE  =" + bytes(3000)) == 3009
    assert estimate_cost(bytes(128) + b"DICM") is not None
    scans = _encode("JPEG", 1000, 1000, progressive=True, quality=20)
    assert estimate_cost(scans) == 10_000_000


class Echo(WorkerClient):
    """Stands for the workers: it sends back what it gets."""

    async def explain(self, requests: Sequence[ExplainRequest]) -> list[ExplainResponse]:
        return [ExplainResponse(200, request.image) for request in requests]

    def count_waiting(self) -> int:
        return 0

    def count_ready(self) -> int:
        return 1

    def count_replaced(self) -> int:
        return 0


@pytest.fixture(scope="module")
def client() -> Iterator[DecodingClient]:
    result = DecodingClient(Echo(), DecoderSetup.from_limit(SPEC, 30_000_000), 30.0)
    asyncio.run(result.start())
    yield result
    result.close()


def _run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(60):
            return await work()

    return asyncio.run(within())


def _explain(client: DecodingClient, *contents: bytes, **options: Any) -> list[ExplainResponse]:
    requests = [ExplainRequest(content, RequestOptions(**options)) for content in contents]
    return _run(lambda: client.explain(requests))


def test_a_picture_is_the_same_wherever_it_is_decoded(client) -> None:
    light, costly = _encode("PNG"), _encode("TIFF")
    first, second = _explain(client, light, costly, picture=True)
    assert first.body == light
    options = RequestOptions(picture=True)
    apart = PreparedImage.unpack(second.body, SPEC, options)
    expected = PreparedImage.from_request(ExplainRequest(costly, options), SPEC, 1_000_000)
    assert torch.equal(apart.image, expected.image)
    assert (apart.size, apart.frames, apart.options) == ((50, 60), 1, options)
    assert apart.picture == expected.picture


def test_what_is_wrong_is_told_in_the_same_words(client) -> None:
    [result] = _explain(client, b"II*\0no TIFF file")
    assert result.status == 422
    assert b"image: damaged or cut short" in result.body
    [result] = _explain(client, _encode("TIFF"), frame=4)
    assert b"there is no page 5, the file has 1" in result.body


def _bomb() -> bytes:
    """A PNG of some kilobytes that takes half a second."""
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_that_takes_too_long_is_ended(client, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "MIN_SECONDS", 0.1)
    monkeypatch.setattr(decoding, "PIXELS_PER_SECOND", 10**9)
    [result] = _explain(client, _bomb())
    assert result.status == 422
    assert b"image: takes more than 0.1 s or " in result.body


def test_memory_is_limited() -> None:
    large = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(large, "PNG")
    client = DecodingClient(Echo(), DecoderSetup(SPEC, 30_000_000, 100_000_000), 30.0)
    try:
        small, refused = _explain(client, _encode("TIFF"), large.getvalue())
    finally:
        client.close()
    assert (small.status, refused.status) == (200, 422)
    assert b"memory to decode" in refused.body or b"100 MB to decode" in refused.body


def test_light_pictures_overtake_costly_ones(client) -> None:
    async def crowd() -> float:
        bombs = [asyncio.create_task(client.explain([ExplainRequest(_bomb())])) for _ in range(8)]
        await asyncio.sleep(0.1)
        assert client.count_waiting() == 6
        started = time.monotonic()
        await client.explain([ExplainRequest(_encode("PNG"))])
        light = time.monotonic() - started
        for bomb in bombs:
            bomb.cancel()
        await asyncio.gather(*bombs, return_exceptions=True)
        assert client.count_waiting() == 0
        [small] = await client.explain([ExplainRequest(_encode("TIFF"))])
        assert small.status == 200  # the places are free again
        return light

    assert _run(crowd) < 0.1


def test_the_cheapest_goes_first(client, monkeypatch) -> None:
    order: list[int] = []

    async def run_child(request: ExplainRequest, cost: int) -> ExplainResponse:
        order.append(cost)
        await asyncio.sleep(0.01)
        return ExplainResponse(422, b"")

    monkeypatch.setattr(client, "_run_child", run_child)

    async def crowd() -> None:
        sizes = (500, 400, 900, 100, 300)
        await asyncio.gather(*(client.explain([ExplainRequest(bytes(size))]) for size in sizes))

    _run(crowd)
    assert order == [500, 400, 100, 300, 900]


def _count_processes(group: int) -> int:
    """Return how many processes of a group run."""
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = stat.read_text().rpartition(") ")[2].split()[:3]
            count += int(of) == group and state != "Z"
    return count


@contextmanager
def _begin_picture(decoder: DecoderProcess) -> Iterator[int]:
    """Let a decoder begin with a picture that does not arrive; yields its process group."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            decoder.hand_over(theirs)
        ours.recv(1)
        group = decoder._process.pid
        assert _count_processes(group) >= 2  # children of cancelled requests may be there, too
        yield group


def _wait_until_gone(group: int) -> None:
    end = time.monotonic() + 20
    while _count_processes(group):
        assert time.monotonic() < end, "a process is left"
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="/proc tells of processes")
def test_no_child_outlives_the_web_process_or_the_server(client) -> None:
    with _begin_picture(client._decoder) as group:
        client._decoder._connection.close()  # as the kernel does when the web process is killed
        _wait_until_gone(group)
    [fine] = _explain(client, _encode("TIFF"))
    assert fine.status == 200
    with _begin_picture(client._decoder) as group:
        client.close()
        _wait_until_gone(group)


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_a_decoder_that_dies_while_it_loads_is_an_error(seconds) -> None:
    client = DecodingClient(Echo(), DecoderSetup.from_limit(SPEC, 1_000_000), 30.0)

    async def start() -> None:
        starting = asyncio.create_task(client.start())
        await asyncio.sleep(seconds)
        client._decoder._process.kill()
        await starting

    with pytest.raises(
        ApercuError,
        match="the process that decodes images ended while it started; check that there is",
    ):
        _run(start)
    client.close()


def test_a_decoder_that_died_is_started_again(client) -> None:
    process = client._decoder._process
    process.kill()
    process.wait()
    [fine] = _explain(client, _encode("TIFF"))
    assert fine.status == 200
    assert client._decoder._process.pid != process.pid


def test_bands_and_stretch_of_the_card_hold_for_requests() -> None:
    fits = pytest.importorskip("astropy.io.fits")
    spec = InputSpec(
        channels=2,
        size=(8, 8),
        bands=("R", "G"),
        stretch=Stretch(curve="linear", low=(0, 0), high=(10, 100), noise=(1, 1), sky=False),
    )
    buffer = io.BytesIO()
    images = [
        fits.ImageHDU(np.full((8, 8), value, np.float32), name=name)
        for name, value in (("G", 50.0), ("R", 2.0), ("I", 9.0))
    ]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(buffer)
    expected = {None: (0.2, 0.5), ("I", "R"): (0.9, 0.02), ("G",): (1.0, 0.5)}
    for bands, values in expected.items():
        request = ExplainRequest(buffer.getvalue(), RequestOptions(bands=bands))
        prepared = PreparedImage.from_request(request, spec, 1_000_000)
        assert prepared.image.mean((1, 2)).tolist() == pytest.approx(values)
