"""What hostile callers send, over real sockets and in the bytes of files."""

from __future__ import annotations

import gzip
import hmac
import io
import json
import os
import pickle
import resource
import socket
import struct
import time
import zipfile
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from apercu.deploy.serving import http_protocol, security
from apercu.deploy.serving.security import OPEN_PATHS

HEAD = b"POST /v1/explain HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def port(listen) -> int:
    return urlsplit(listen()).port


def _said(port: int, *pieces: bytes, pause: float = 0.0, seconds: float = 20.0) -> bytes:
    """All that a server says to bytes on a connection, until it hangs up."""
    with socket.create_connection(("127.0.0.1", port), seconds) as line:
        try:
            for piece in pieces:
                line.sendall(piece)
                time.sleep(pause)
        except ConnectionError:
            pass  # it hung up first
        result = b""
        try:
            while piece := line.recv(65536):
                result += piece
        except ConnectionError:
            pass
        return result


def _problem(said: bytes) -> tuple[int, str]:
    head, _, body = said.partition(b"\r\n\r\n")
    content = json.loads(body)
    assert b"application/problem+json" in head
    assert content["status"] == int(head[9:12])
    assert "Traceback" not in content["detail"]
    return content["status"], content["detail"]


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Content-Length: -1\r\n\r\n{}",
        b"Content-Length: 2x\r\n\r\n{}",
        b"Content-Length: 99999999999999999999999999\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n",
        b"No colon here\r\n\r\n",
        b"Bad\x00name: 1\r\n\r\n",
        b" folded: 1\r\n\r\n",
    ],
)
def test_tricks_with_headers_are_one_refusal(port, lines) -> None:
    result = _said(port, HEAD + lines)
    assert result.count(b"HTTP/1.1 ") == 1
    assert _problem(result) == (400, "request: expected well-formed HTTP/1.1")


@pytest.mark.parametrize(
    "line", [b"", b"GET\r\n", b"GET / HTTP/9.9\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n", b"/\r\n"]
)
def test_what_is_no_http(port, line) -> None:
    result = _said(port, line + b"\r\n\r\nx\r\n\r\n")
    assert _problem(result)[0] == 400


def test_a_body_that_is_shorter_than_told_is_cut_short(port) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(HEAD + b"Content-Length: 50\r\n\r\n{")
        line.shutdown(socket.SHUT_WR)
        result = line.recv(65536)
    assert not result.startswith(b"HTTP/1.1 200")


def test_what_follows_a_body_is_another_request(port) -> None:
    result = _said(port, HEAD + b"Content-Length: 2\r\n\r\n{}GARBAGE / HTTP/1.1\r\n\r\n")
    statuses = [one[:3] for one in result.split(b"HTTP/1.1 ")[1:]]
    assert statuses in ([b"422", b"400"], [b"400"])


def test_a_body_that_says_it_is_too_large_is_not_read(port) -> None:
    result = _said(port, HEAD + b"Content-Length: 2000000\r\nConnection: close\r\n\r\n")
    assert _problem(result) == (413, "body: expected at most 1 MB; send a smaller image")


def test_head_lines_without_end(port) -> None:
    result = _said(port, HEAD, *[b"X-Filler: " + b"a" * 8000 + b"\r\n"] * 40, pause=0.005)
    assert _problem(result) == (431, "head: expected at most 64 KiB of header lines")


def test_one_head_line_without_end(port) -> None:
    result = _said(port, HEAD + b"X-Filler: ", *[b"a" * 8000] * 40, pause=0.005)
    assert _problem(result)[0] == 431


def test_lines_after_the_body_are_counted_too(port) -> None:
    start = HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
    result = _said(port, start, *[b"X-Filler: " + b"a" * 8000 + b"\r\n"] * 40, pause=0.005)
    assert b" 431 " in result
    few = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    result = _said(port, few + b"2\r\n{}\r\n0\r\nX-Filler: a\r\n\r\n")
    assert _problem(result)[0] == 422  # they are passed over


def test_a_body_does_not_count_as_the_next_head(port) -> None:
    body = b'{"image": "' + b"A" * 300_000 + b'"}'
    first = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    result = _said(port, first + last[:20], last[20:], pause=0.3)
    assert result.startswith(b"HTTP/1.1 422")
    assert b"HTTP/1.1 200" in result
    assert b" 431 " not in result


def test_a_slow_head_is_hung_up_on(port, monkeypatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.3)
    result = _said(port, *[bytes([one]) for one in HEAD], pause=0.02)
    assert _problem(result) == (408, "head: expected all header lines within 0.3 s")
    assert _said(port) == result  # who says nothing at all is told the same
    good = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    result = _said(port, good, b"G", b"E", b"T", pause=0.1)  # and a slow second request, too
    assert result.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in result


def test_a_slow_body_ends_at_the_deadline(listen, monkeypatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 1.0)
    port = urlsplit(listen(deadline=0.5, places=1)).port
    result = _said(
        port, HEAD + b"Content-Length: 500\r\n\r\n", *[b"{"] * 400, pause=0.01, seconds=9
    )
    assert result.startswith(b"HTTP/1.1 504")


@pytest.mark.parametrize(
    "path",
    [
        "/page/../server.py",
        "/page/..%2f..%2fserver.py",
        "/page/%2e%2e/server.py",
        "/page//etc/passwd",
        "/page/..%5cserver.py",
        "/examples/../../etc/passwd.png",
        "/examples/..%2f1.png",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%00",
        "//etc/passwd",
        "/page/page.css%00.js",
    ],
)
def test_paths_lead_nowhere_else(port, path) -> None:
    result = _said(port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert _problem(result)[0] == 404
    assert b"root:" not in result


@pytest.mark.parametrize("name", ["../../tmp/planted.png", "/etc/passwd", "a\x00b", "x" * 4000])
def test_the_name_of_a_file_means_nothing(call, png, name) -> None:
    answered = call("POST", "/v1/explain", files={"image": (name, png)})
    assert answered.status_code == 200
    assert answered.json() == call.explain(png).json()
    refused = call("POST", "/v1/explain", files={"image": (name, b"no image")}).json()
    assert name not in refused["detail"]


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def _png(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    middle = b"".join(more) + _chunk(b"IDAT", pixels)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + middle + _chunk(b"IEND", b"")


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pixels.npy", bytes(50_000_000))
    return buffer.getvalue()


def _fits(width: int) -> bytes:
    cards = ("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", f"NAXIS1  = {width}", "NAXIS2  = 40")
    padded = [f"{key:<8}= {value.strip():>20}" for key, value in (c.split("=") for c in cards)]
    head = "".join(f"{line:<80}" for line in (*padded, "END")).ljust(2880)
    return head.encode() + bytes(width * 40)


BOMBS = {
    "png: many pixels": _png(30_000, 30_000, zlib.compress(bytes(30_000 * 3_000))),
    "png: more bytes than pixels": _png(40, 40, zlib.compress(bytes(80_000_000))),
    "png: text": _png(
        40,
        40,
        zlib.compress(bytes(41 * 40)),
        _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))),
    ),
    "npz": _zip(),
    "fits: many pixels": gzip.compress(_fits(2_000_000)),
    "fits: more bytes than pixels": gzip.compress(_fits(40) + bytes(300_000_000)),
    "npy": b"\x93NUMPY\x01\x00\x76\x00"
    + f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**9}, {10**9}), }}".ljust(
        118
    ).encode(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_stay_small(call, name) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(BOMBS[name]) < 1_000_000
    answered = call.explain(BOMBS[name])
    assert answered.status_code in (200, 422)
    assert answered.status_code == 422 or name.startswith("png")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, f"{grown} KiB"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 900_000,
        b'{"a":' * 150_000,
        b'{"image": "' + b"A" * 900_000 + b'"}',
        b'{"image": "aaaa", "top": ' + b"9" * 900_000 + b"}",
        b'{"image": "aaaa", "target": [' + b"0," * 400_000 + b"0]}",
        b"{" + b", ".join(b'"%d": 0' % one for one in range(60_000)) + b"}",
        b'{"image": "aaaa", "level": NaN}',
        b'{"image": "aaaa", "level": -Infinity}',
        b'{"image": "\\ud800"}',
        b'{"image": "aaaa", "target": "\\ud800\\u0000"}',
    ],
    ids=lambda body: body[:30].decode(),
)
def test_json_without_measure(call, body) -> None:
    response = call(
        "POST", "/v1/explain", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.content) < 2000


class _Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_pickle_is_ever_loaded(call, tmp_path) -> None:
    trap = tmp_path / "trap"
    packed = pickle.dumps(_Bomb(trap))
    array, archive = io.BytesIO(), io.BytesIO()
    np.save(array, np.array([_Bomb(trap)], dtype=object), allow_pickle=True)
    np.savez(archive, image=np.array([_Bomb(trap)], dtype=object))
    torch_zip = io.BytesIO()
    with zipfile.ZipFile(torch_zip, "w") as result:
        result.writestr("archive/data.pkl", packed)
        result.writestr("archive/version", "3")
    for body in (packed, array.getvalue(), archive.getvalue(), torch_zip.getvalue()):
        assert call.explain(body).status_code == 422
        assert not trap.exists()
    pickle.loads(packed)
    assert trap.exists()  # the trap does snap


def test_the_token_is_wanted_everywhere_else(serving, monkeypatch) -> None:
    call = serving(token=b"a-secret-of-letters")
    compared, right = [], hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return right(one, other)

    monkeypatch.setattr(security.hmac, "compare_digest", compare)
    paths = {getattr(route, "path", "") for route in call.app.routes} - set(OPEN_PATHS)
    assert {"/v1/explain", "/metrics", "/openapi.json", "/page.json"} <= paths
    for path in (*paths, "/nothing", "/HEALTHZ", "/healthz/", "/page/page.css/", "/page/x"):
        address = path.replace("{name}", "tiny").replace("{number}", "0")
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            bare = path == "/page/{name}"  # scripts of the page, and nothing else, have no secret
            status = call(method, address).status_code
            assert status == 401 or bare, (method, address, status)
    assert compared
    assert all(secret == b"a-secret-of-letters" for _, secret in compared)
    query = call("GET", "/metrics?token=a-secret-of-letters")
    cookie = call("GET", "/metrics", headers={"cookie": "authorization=Bearer a-secret-of-letters"})
    assert query.status_code == cookie.status_code == 401
