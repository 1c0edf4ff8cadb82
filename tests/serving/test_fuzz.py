"""Damaged files, forms and JSON: some hundreds here, many more by benchmarks/reliability.py."""

from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from apercu.errors import ImageError
from apercu.images.limits import limit_pixels
from apercu.images.reader import ReadOptions, read_stored

QUIET = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
FINE = {200, 400, 413, 415, 422}
FILES = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "npy", "FITS", "FITS, gzip", "DICOM")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A small file of each kind."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    results = {}
    for kind in ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        results[kind] = buffer.getvalue()
    array, stamp = io.BytesIO(), io.BytesIO()
    np.save(array, pixels)
    fits = pytest.importorskip("astropy.io.fits")
    fits.PrimaryHDU(np.float32(pixels.transpose(2, 0, 1) / 255)).writeto(stamp)
    results |= {"npy": array.getvalue(), "FITS": stamp.getvalue()}
    return results | {"FITS, gzip": gzip.compress(stamp.getvalue()), "DICOM": _dicom(pixels)}


def _dicom(pixels: np.ndarray) -> bytes:
    pytest.importorskip("pydicom")
    from apercu.explain.files import build_secondary_capture
    from apercu.images.formats.dicom import DicomReference

    source = DicomReference("1.2", "1.2.840.10008.5.1.4.1.1.1", "1.2.3", None)
    return build_secondary_capture(Image.fromarray(pixels), source, "made for a test")


CHANGES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4000), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=8,
)


def _damaged(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Bytes put over others, put in, left out, doubled; or the end cut off."""
    changed = bytearray(content)
    for kind, position, given_bytes in changes:
        at = position % (len(changed) + 1)
        match kind:
            case 0:
                changed[at : at + len(given_bytes)] = given_bytes
            case 1:
                changed[at:at] = given_bytes
            case 2:
                del changed[at : at + len(given_bytes)]
            case 3:
                changed[at:at] = changed[at : at + 16 * len(given_bytes)]
            case _:
                del changed[max(at, 16) :]
    return bytes(changed)


@pytest.mark.parametrize("kind", FILES)
@settings(QUIET, max_examples=40)
@given(changes=CHANGES)
def test_a_damaged_file_is_read_or_refused(files, kind, changes) -> None:
    content = _damaged(files[kind], changes)
    try:
        with limit_pixels(1_000_000):
            picture = read_stored(content, ReadOptions(3, 0, ())).picture
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert picture.ndim == 3
        assert picture.shape[1] * picture.shape[2] <= 1_000_000


@settings(QUIET, max_examples=100)
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ("image", "target", "top", "level", "format", "picture", "b64", "x")
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=8,
    ),
    many=st.booleans(),
)
def test_json_of_any_shape(call, body, many) -> None:
    path = "/v1/models/tiny:explain" if many else "/v1/explain"
    content = json.dumps({"instances": body} if many else body).encode()
    _answered(call, path, content, "application/json")


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function SpooledTemporaryFile")
@settings(QUIET, max_examples=100)
@given(changes=CHANGES, field=st.sampled_from(("target", "top", "level", "é", "x" * 5000)))
def test_a_damaged_form(call, png, changes, field) -> None:
    """Starlette leaves the file of a part without end to the garbage collector."""
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n1\r\n--x\r\n'.encode()
    named = b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    form = _damaged(head + named + png + b"\r\n--x--\r\n", changes)
    _answered(call, "/v1/explain", form, "multipart/form-data; boundary=x")


def _answered(call, path: str, content: bytes, kind: str) -> None:
    answered = call("POST", path, content=content, headers={"content-type": kind})
    assert answered.status_code in FINE, answered.text
    response = answered.json()
    if answered.status_code != 200:
        assert answered.headers["content-type"] == "application/problem+json"
        assert response["status"] == answered.status_code


@pytest.mark.slow
def test_what_the_document_describes(call) -> None:
    """schemathesis draws requests from /openapi.json, good ones and bad ones."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis.errors import Unsatisfiable
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]

    document = schemathesis.openapi.from_dict(call("GET", "/openapi.json").json())
    for result in document.get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:

            @settings(QUIET, max_examples=15)
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case) -> None:
                if "name" in case.path_parameters:
                    case.path_parameters["name"] = "tiny"
                answered = case.call(base_url="http://apercu", app=call.app)
                case.validate_response(answered, checks=checks)

            try:
                check()
            except Unsatisfiable:
                continue  # an address without parameters, which none can break
