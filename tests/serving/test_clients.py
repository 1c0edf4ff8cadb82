"""What monitors, browsers, proxies and other clients expect of HTTP."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import socket
import subprocess
import sys
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from apercu.deploy.serving import server as server_module
from apercu.deploy.serving.bodies import decode_base64
from apercu.deploy.serving.decoding import DecodingClient
from apercu.deploy.serving.pool import WorkerPool
from apercu.deploy.serving.served_explainer import ServedExplainer
from apercu.deploy.serving.settings import AccessPolicy, ServeSettings
from apercu.deploy.serving.worker import WorkerSetup
from apercu.errors import ConfigError

JSON = {"content-type": "application/json"}
STRANGERS = (
    "evil.example",
    "x.evil.example:8000",
    "127.0.0.1.nip.example",
    "localhost.evil.example",
    "10.1.2.3",
    "[fe80::1]:80",
    "[::",
)


@pytest.fixture(scope="module")
def port(listen) -> int:
    return urlsplit(listen()).port


def _detail(answered: httpx.Response, status: int) -> str:
    assert answered.status_code == status, answered.text
    assert answered.headers["content-type"] == "application/problem+json"
    return answered.json()["detail"]


def test_head_is_answered_wherever_get_is(call) -> None:
    paths = [route.path for route in call.app.routes if "GET" in route.methods]
    assert {"/", "/healthz", "/metrics", "/v2/health/live", "/page.json"} <= set(paths)
    for path in paths:
        address = path.replace("/page/{name}", "/page/main.js").replace("{name}", "tiny")
        address = address.replace("{number}", "0")
        get, head = call("GET", address), call("HEAD", address)
        assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize("number", ["00009", "9999", "-1", "1e3", "²", "٣", "0x1", "%00"])
def test_an_example_that_is_not_there(call, number) -> None:
    assert _detail(call("GET", f"/examples/{number}.png"), 404)


def _form(part: bytes, content: bytes, *, start: bytes = b"") -> dict[str, object]:
    body = start + b"--B\r\n" + part + b"\r\n\r\n" + content + b"\r\n--B--\r\n"
    return {"content": body, "headers": {"content-type": "multipart/form-data; boundary=B"}}


@pytest.mark.parametrize(
    "part",
    [
        b'Content-Disposition: form-data; name="image"',
        b"Content-Disposition: form-data; name=image",
        b"Content-Disposition: form-data; name=\"image\"; filename*=UTF-8''k%C3%A4se.png",
        b'Content-Disposition: form-data; name="image"; filename=""',
        b'content-disposition: form-data; name="image"\r\nContent-Transfer-Encoding: binary',
    ],
)
def test_a_part_without_a_file_name(call, png, part) -> None:
    assert len(png) > 4096
    assert call("POST", "/v1/explain", **_form(part, png)).json() == call.explain(png).json()


def test_a_preamble_and_base64_in_a_form(call, png) -> None:
    part = b'Content-Disposition: form-data; name="image"'
    expected = call.explain(png).json()
    sent = _form(part, png, start=b"This is a form.\r\n")
    assert call("POST", "/v1/explain", **sent).json() == expected
    text = base64.encodebytes(png)
    sent = _form(part + b"\r\nContent-Transfer-Encoding: base64", text)
    assert call("POST", "/v1/explain", **sent).json() == expected
    sent = _form(part, b"data:image/png;base64," + base64.b64encode(png))
    assert call("POST", "/v1/explain", **sent).json() == expected
    sent = _form(part + b"\r\nContent-Transfer-Encoding: quoted-printable", png)
    assert "Content-Transfer-Encoding" in _detail(call("POST", "/v1/explain", **sent), 400)


def test_base64_as_clients_write_it() -> None:
    content = bytes(range(256)) * 3 + b"\xfb\xff"
    plain = base64.b64encode(content).decode()
    for text in (
        plain,
        plain.rstrip("="),
        base64.encodebytes(content).decode(),
        plain.replace("A", "A\r\n"),
        base64.urlsafe_b64encode(content).decode(),
        f"data:image/png;base64,{plain}",
        f"  DATA:application/octet-stream;name=a;BASE64,{plain}\n",
        f"data:;base64,{plain}".replace("+", "%2B").replace("=", "%3D"),
    ):
        assert decode_base64(text) == content
    assert decode_base64("data:text/plain,GIF%38") == b"GIF8"


@pytest.mark.parametrize("text", ["%%", "a", "ä", "YQ==YQ==", "data:image/png;base64", "\0\0\0\0"])
def test_what_is_no_base64(call, text) -> None:
    response = call("POST", "/v1/explain", json={"image": text})
    assert _detail(response, 422).startswith("image: expected ")


def test_an_address_is_not_fetched(call) -> None:
    response = call("POST", "/v1/explain", json={"image": "https://photos.example/cat.jpg"})
    assert _detail(response, 422).endswith("got an address; the server fetches nothing")


def _raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", _raw_deflate),
        ("identity", bytes),
    ],
)
def test_compressed_bodies(call, png, coding, pack) -> None:
    body = json.dumps({"image": base64.b64encode(png).decode()}).encode()
    headers = {**JSON, "content-encoding": coding}
    answered = call("POST", "/v1/explain", content=pack(body), headers=headers)
    assert answered.json() == call.explain(png).json()


@pytest.mark.parametrize(
    ("coding", "content", "status"),
    [
        ("br", b"{}", 415),
        ("gzip, gzip", b"{}", 415),
        ("gzip", b"{}", 400),
        ("gzip", gzip.compress(b"{}")[:-4], 400),
        ("gzip", gzip.compress(b"{}") * 2, 400),
        ("deflate", b"", 400),
        ("gzip", gzip.compress(bytes(1_000_001)), 413),
        ("deflate", zlib.compress(bytes(300_000_000)), 413),
    ],
)
def test_compressed_bodies_that_are_refused(call, coding, content, status) -> None:
    headers = {**JSON, "content-encoding": coding}
    answered = call("POST", "/v1/explain", content=content, headers=headers)
    assert _detail(answered, status).startswith("body: ")
    assert ("accept-encoding" in answered.headers) == (status == 415)


def test_the_second_protocol_of_kserve(call, png, tiny_run) -> None:
    model, text = f"/v2/models/{tiny_run.name}", base64.b64encode(png).decode()
    assert call("GET", "/v2").json()["name"] == "apercu"
    assert call("GET", "/v2/health/live").json() == {"live": True}
    assert call("GET", "/v2/health/ready").json() == {"ready": True}
    assert call("GET", f"{model}/ready").json() == {"name": tiny_run.name, "ready": True}
    response = call("GET", model).json()
    assert [one["name"] for one in (*response["inputs"], *response["outputs"])] == [
        "image",
        "explanation",
    ]
    for shape, data in (([2], [text, text]), ([2, 1], [[text], [text]])):
        tensor = {"name": "image", "datatype": "BYTES", "shape": shape, "data": data}
        body = {"id": "7", "inputs": [tensor], "parameters": {"target": "rings"}}
        answered = call("POST", f"{model}/infer", json=body).json()
        assert (answered["id"], answered["model_name"]) == ("7", tiny_run.name)
        [output] = answered["outputs"]
        assert (output["datatype"], output["shape"]) == ("BYTES", [2])
        expected = call.explain(png, target="rings").json()
        assert [json.loads(one)["answers"][0]["index"] for one in output["data"]] == [2, 2]
        found = json.loads(output["data"][0])["answers"]
        for answer, other in zip(found, expected["answers"], strict=True):  # batches round apart
            assert answer.pop("area") == pytest.approx(other.pop("area"), abs=2e-6)
        assert found == expected["answers"]
    assert call("GET", "/v2/models/other/ready").status_code == 404
    for inputs in ([], None, [{}], [{**tensor, "datatype": "FP32"}], [{**tensor, "data": []}]):
        response = call("POST", f"{model}/infer", json={"inputs": inputs})
        assert _detail(response, 400).startswith("inputs: expected one input image")
    body = {"inputs": [tensor], "parameters": {"targt": "rings"}}
    assert "did you mean target" in _detail(call("POST", f"{model}/infer", json=body), 422)


def _pages(*greys: int) -> bytes:
    pages = [Image.new("L", (8, 8), grey) for grey in greys]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


def test_a_frame_of_several(call, png) -> None:
    content = _pages(0, 100, 200)
    for frame, grey in ((None, 0), (1, 0), (2, 100), (3, 200)):
        fields = {"picture": "true"} | ({} if frame is None else {"frame": str(frame)})
        record = call.explain(content, **fields).json()
        assert record["frames"] == 3
        picture = Image.open(io.BytesIO(base64.b64decode(record["picture"])))
        assert abs(np.asarray(picture).mean() - grey) < 3
    assert "there is no page 4, the file has 3" in _detail(call.explain(content, frame="4"), 422)
    assert call.explain(png).json()["frames"] == 1
    response = _detail(call.explain(png, frame="2"), 422)
    assert response == "image: there is no frame 2; only DICOM and TIFF files have several"
    response = _detail(call.explain(png, frame="0"), 422)
    assert response == "frame: expected a number from 1 on, got 0"


def _fits(**counts: float) -> bytes:
    fits = pytest.importorskip("astropy.io.fits")
    images = [
        fits.ImageHDU(np.full((8, 8), value, np.float32), name=name)
        for name, value in counts.items()
    ]
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(buffer)
    return buffer.getvalue()


def test_bands_of_a_request(call, png) -> None:
    content = _fits(G=0.1, R=0.5, I=0.9, Z=0.3)
    assert "expected 3 bands" in _detail(call.explain(content), 422)
    for bands, colour in (("I,R,G", (0.9, 0.5, 0.1)), (["G", "R", "I"], (0.1, 0.5, 0.9))):
        record = call.explain(content, bands=bands, picture="true").json()
        picture = Image.open(io.BytesIO(base64.b64decode(record["picture"])))
        assert np.abs(np.asarray(picture).mean((0, 1)) / 255 - colour).max() < 0.03
    text = base64.b64encode(content).decode()
    answered = call("POST", "/v1/explain", json={"image": text, "bands": "Z"})
    assert answered.status_code == 200
    for bands, words in (("I,R", "expected 3 names"), ("I,R,Y", "lacks band Y")):
        assert words in _detail(call.explain(content, bands=bands), 422)
    assert _detail(call.explain(png, bands="g"), 422).startswith("bands: only FITS files")
    for wrong in ([1], {"a": 1}, ["G", ""], ["a"] * 65):
        answered = call("POST", "/v1/explain", json={"image": text, "bands": wrong})
        assert _detail(answered, 422).startswith("bands: expected ")


@pytest.mark.parametrize("host", STRANGERS)
def test_the_host_of_a_stranger(serving, host) -> None:
    call = serving(hosts=())
    for path in ("/", "/page.json", "/v1/explain", "/healthz"):
        response = call("POST" if path == "/v1/explain" else "GET", path, headers={"host": host})
        assert _detail(response, 403).startswith("host: without a token only loopback names")
    assert serving(hosts=("*",))("GET", "/page.json", headers={"host": host}).status_code == 200


def test_hosts_that_are_answered(serving) -> None:
    call = serving(hosts=("lab.example", "[fe80::1]"))
    for host in (
        *("localhost", "LOCALHOST:8000", "app.localhost", "127.0.0.1:8000", "127.8.9.1", "[::1]:1"),
        *("[::ffff:127.0.0.1]", "lab.example", "Lab.Example.:44", "[fe80::1]:80"),
    ):
        assert call("GET", "/page.json", headers={"host": host}).status_code == 200
    policy = AccessPolicy()
    assert policy.is_host_allowed("192.168.7.5:8000", "192.168.7.5")  # of the connection itself
    assert not policy.is_host_allowed("192.168.7.6:8000", "192.168.7.5")
    assert policy.is_host_allowed("", None)  # HTTP/1.0: no browser
    token = {"authorization": "Bearer a-secret-of-letters", "host": "any.example"}
    call = serving(hosts=(), token=b"a-secret-of-letters")
    assert call("GET", "/page.json", headers=token).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example"]
)
def test_the_origin_of_a_stranger(call, png, origin) -> None:
    headers = {"origin": origin}
    response = call("POST", "/v1/explain", files={"image": png}, headers=headers)
    assert _detail(response, 403).startswith("origin: without a token only pages of loopback names")
    request_headers = {**headers, "access-control-request-method": "POST"}
    response = call("OPTIONS", "/v1/explain", headers=request_headers)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    for own in ("http://localhost:3000", "http://127.0.0.1:8000", "http://apercu"):
        answered = call("POST", "/v1/explain", files={"image": png}, headers={"origin": own})
        assert answered.status_code == 200
        assert "access-control-allow-origin" not in answered.headers


@pytest.mark.parametrize("token", [None, b"a-secret-of-letters"])
def test_pages_that_are_named_may_read(serving, png, token) -> None:
    call = serving(origins=("https://lab.example",), token=token)
    origin = {"origin": "https://lab.example"}
    request_headers = {**origin, "access-control-request-method": "POST"}
    response = call("OPTIONS", "/v1/explain", headers=request_headers)
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == "https://lab.example"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "Authorization" in response.headers["access-control-allow-headers"]
    bearer = {} if token is None else {"authorization": f"Bearer {token.decode()}"}
    for content in (png, b"no image"):
        answered = call(
            "POST", "/v1/explain", files={"image": content}, headers={**origin, **bearer}
        )
        assert answered.status_code == (200 if content is png else 422)
        assert answered.headers["access-control-allow-origin"] == "https://lab.example"
        assert answered.headers["vary"] == "Origin"
    if token is not None:
        answered = call("POST", "/v1/explain", files={"image": png}, headers=origin)
        assert answered.status_code == 401
        assert answered.headers["access-control-allow-origin"] == "https://lab.example"
    other = {"origin": "https://other.example", "access-control-request-method": "POST"}
    assert call("OPTIONS", "/v1/explain", headers=other).status_code == (
        403 if token is None else 401
    )


def test_every_origin(serving) -> None:
    call = serving(origins=("*",))
    answered = call("GET", "/page.json", headers={"origin": "null"})
    assert answered.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "given",
    [
        *({"hosts": ("http://x",)}, {"hosts": ("x:80",)}, {"hosts": ("",)}, {"hosts": ("[]",)}),
        *({"origins": ("lab.example",)}, {"origins": ("",)}),
    ],
)
def test_hosts_and_origins_that_are_none(given) -> None:
    with pytest.raises(ConfigError, match=r"expected an? (name|address) such as"):
        AccessPolicy(**given)


def _explain(png: bytes, more: bytes = b"") -> bytes:
    form = httpx.Request("POST", "http://localhost/v1/explain", files={"image": png})
    head = f"POST /v1/explain HTTP/1.1\r\nHost: x\r\nContent-Type: {form.headers['content-type']}"
    return (
        f"{head}\r\nContent-Length: {len(form.read())}\r\n".encode() + more + b"\r\n" + form.read()
    )


def _answer(port: int, sent: bytes) -> bytes:
    """What a client gets that ends its own side after it has sent all."""
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(sent)
        line.shutdown(socket.SHUT_WR)
        received = b""
        while piece := line.recv(65536):
            received += piece
    return received


@pytest.mark.parametrize("seconds", [0.0, 0.4])
@pytest.mark.parametrize("more", [b"", b"Expect: 100-continue\r\n"])
def test_a_client_that_only_listens_gets_its_answer(listen, png, seconds, more) -> None:
    port = urlsplit(listen(seconds=seconds)).port
    received = _answer(port, _explain(png, more)).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.count(b"HTTP/1.1") == 1
    assert json.loads(body)["answers"]
    several = _answer(port, _explain(png) + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert several.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert several.endswith(b"ok\n")
    assert _answer(port, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok\n")
    assert _answer(port, _explain(png)[:-20]) == b""
    assert _answer(port, b"GET /healthz HTT") == b""


def test_a_connection_is_kept_as_long_as_is_set(worker, monkeypatch) -> None:
    """The option reaches the server that listens; how long the default is, too."""
    configured = {}

    async def start_workers(pool: WorkerPool) -> ServedExplainer:
        return worker.explainer.served

    async def start_decoder(client: DecodingClient) -> None: ...

    class Http:
        def __init__(self, config, on_started) -> None:
            configured["keep_alive"] = config.timeout_keep_alive

    monkeypatch.setattr(server_module, "HttpServer", Http)
    monkeypatch.setattr(WorkerPool, "start", start_workers)
    monkeypatch.setattr(DecodingClient, "start", start_decoder)
    monkeypatch.setattr(server_module, "build_app", lambda service: configured.update(s=service))
    for given, expected in (({}, 5.0), ({"keep_alive": 75.0}, 75.0)):
        access = AccessPolicy(("lab.example",))
        settings = ServeSettings(Path("run"), token=b"x" * 16, access=access, **given)
        pool = WorkerPool([WorkerSetup(Path("run"))], 30.0, print)
        asyncio.run(server_module.Server(settings, print)._load(pool))
        assert configured["keep_alive"] == expected
        service = configured["s"]
        assert (service.access, service.token) == (access, b"x" * 16)
        assert service.client.workers is pool
        assert service.capacity == 64 + 8  # what waits, and a batch at work


@pytest.mark.parametrize(
    ("host", "token", "lines"),
    [("127.0.0.1", None, 1), ("0.0.0.0", None, 2), ("::", None, 2), ("0.0.0.0", b"x" * 16, 1)],
)
def test_an_open_server_says_what_that_means(host, token, lines) -> None:
    result: list[str] = []
    server_module.Server(
        ServeSettings(Path("run"), host=host, token=token), result.append
    )._say_address()
    assert len(result) == lines
    assert all("no token is set" in line and "--allow-host" in line for line in result[1:])


def test_what_libraries_write_about_pictures_reaches_no_log() -> None:
    code = """
import logging, os, sys, warnings
from apercu.deploy.serving.responses import silence_libraries
silence_libraries()
os.write(2, b"TIFFReadDirectory: a secret")
warnings.warn("a secret")
logging.getLogger("pydicom").error("a secret")
print("error: ours", file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("", "error: ours\n")
