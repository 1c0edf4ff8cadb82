"""What is refused, with which status, in which words."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import pickle

import httpx
import pytest
from PIL import Image

from apercu.deploy.serving import errors
from apercu.deploy.serving.security import HEALTH_PATHS
from apercu.errors import ApercuError


def _problem(answered: httpx.Response, status: int) -> str:
    response = answered.json()
    assert answered.headers["content-type"] == "application/problem+json"
    assert answered.status_code == response["status"] == status
    assert set(response) == {"type", "title", "status", "detail"}
    detail: str = response["detail"]
    assert "\n" not in detail
    return detail


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target": "dotz"}, "target: no class is called 'dotz'; did you mean dots?"),
        ({"target": "7"}, "target: "),
        ({"targt": "dots"}, "targt: no such field; did you mean target?"),
        ({"level": "1"}, "level: expected a number above 0 and below 1, got 1.0"),
        ({"level": "nan"}, "level: expected a number"),
        ({"top": "0"}, "top: expected at least 1 class, got 0"),
        ({"top": "21"}, "top: expected at most 20 classes, got 21"),
        ({"top": "2.5"}, "top: expected a whole number, got '2.5'"),
        ({"top": ["1", "2"]}, "top: expected it once, got it 2 times"),
        ({"format": "gif"}, "format: expected one of png, array, both, got 'gif'"),
        ({"picture": "maybe"}, "picture: expected true or false, got 'maybe'"),
        ({"target": ["dots"] * 21}, "target: expected at most 20 classes, got 21"),
        ({"target": ["dots", "top"]}, "target: top names no class, so nothing stands beside it"),
        ({"target": "x" * 300}, "target: expected a name of at most 200 letters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_field(call, png, fields, words) -> None:
    assert _problem(call.explain(png, **fields), 422).startswith(words)


@pytest.mark.parametrize("body", [b"", b"text", pickle.dumps({"a": 1}), b"\x89PNG\r\n\x1a\n"])
def test_no_image_in_the_words_of_the_command_line(call, body, tmp_path) -> None:
    from apercu import read_picture

    response = _problem(call.explain(body), 422)
    with pytest.raises(ApercuError) as expected:
        read_picture(body)
    assert response == str(expected.value)


def test_too_many_pixels_are_known_from_the_header(call) -> None:
    buffer = io.BytesIO()
    Image.new("1", (1200, 1200)).save(buffer, "PNG")
    response = _problem(call.explain(buffer.getvalue()), 422)
    assert response.startswith("image: too large, expected at most 1 megapixels, got 1200 × 1200")


@pytest.mark.parametrize(
    ("kind", "content", "status", "words"),
    [
        ("application/json", b"{", 400, "body: expected JSON (JSONDecodeError)"),
        ("application/json", b"[1]", 400, "body: expected a JSON object, got a list"),
        ("application/json", b"[" * 100_000, 400, "body: expected JSON (RecursionError)"),
        ("application/json", b"\xff\xfe{}", 400, "body: expected JSON"),
        ("application/json", b'{"image": "%%"}', 422, "image: expected base64"),
        ("application/json", b'{"image": 3}', 422, "image: expected the bytes of a file"),
        ("application/json", b'{"image": "aaaa", "top": true}', 422, "top: expected a whole"),
        ("application/json", b'{"image": "aaaa", "target": {}}', 422, "target: expected a class"),
        ("application/json", b'{"image": "aaaa", "target": 1e400}', 422, "target: expected"),
        ("multipart/form-data; boundary=x", b"nonsense", 400, "body: expected a well-formed"),
        ("multipart/form-data", b"", 400, "body: expected a well-formed form"),
        (
            "text/plain",
            b"hello",
            415,
            "body: expected multipart/form-data with a field image, or app",
        ),
        ("", b"", 415, "body: expected multipart/form-data with"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_wrong_body(call, kind, content, status, words) -> None:
    headers = {"content-type": kind} if kind else {}
    response = call("POST", "/v1/explain", content=content, headers=headers)
    assert _problem(response, status).startswith(words)


def test_a_form_without_an_image(call, png) -> None:
    response = call("POST", "/v1/explain", files={"picture": png})
    assert _problem(response, 422) == "image: expected one file in the field image, got 0"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/nothing", 404), ("/page/..%2fserver.py", 404), ("/page/server.py", 404), ("/docs", 404)],
)
def test_nothing_is_there(call, path, status) -> None:
    assert "nothing here" in _problem(call("GET", path), status)


def test_another_method(call) -> None:
    detail = "method: expected {} at this address, got {}"
    assert _problem(call("GET", "/v1/explain"), 405) == detail.format("POST", "GET")
    assert _problem(call("PUT", "/v2"), 405) == detail.format("GET or HEAD", "PUT")


def test_another_model(call, png) -> None:
    body = {"instances": [{"b64": base64.b64encode(png).decode()}]}
    response = _problem(call("POST", "/v1/models/other:predict", json=body), 404)
    assert response == "model: 'other' is not served here, 'tiny' is"


@pytest.mark.parametrize("instances", [None, [], {}, ["x"], [{"b64": "aaaa"}] * 33])
def test_wrong_instances(call, instances) -> None:
    response = call("POST", "/v1/models/tiny:explain", json={"instances": instances})
    assert _problem(response, 400).startswith("instances: expected")


@pytest.mark.parametrize("wrong", [{"target": "dotz"}, {"b64": "aGVsbG8="}, {"b64": "!"}, {"x": 1}])
def test_of_several_images_the_wrong_one_is_named(call, png, wrong) -> None:
    good = {"b64": base64.b64encode(png).decode()}
    address, body = "/v1/models/tiny:explain", {"instances": [good, good | wrong]}
    among = _problem(call("POST", address, json=body), 422)
    alone = _problem(call("POST", address, json={"instances": [good | wrong]}), 422)
    assert among == f"instances[1]: {alone}" and not alone.startswith("instances")
    if "b64" in wrong:
        body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2]}]}
        body["inputs"][0]["data"] = [good["b64"], wrong["b64"]]
        assert (
            _problem(call("POST", "/v2/models/tiny/infer", json=body), 422) == f"data[1]: {alone}"
        )


@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_that_is_too_large(serving, png, streamed) -> None:
    call = serving(body=1000)
    form = httpx.Request("POST", "http://x", files={"image": png})

    async def pieces():
        yield form.read()[:900]
        yield form.read()[900:]

    content = pieces() if streamed else form.read()
    headers = {"content-type": form.headers["content-type"]}
    response = _problem(call("POST", "/v1/explain", content=content, headers=headers), 413)
    assert response == "body: expected at most 0.001 MB; send a smaller image"


def test_the_token(serving, png) -> None:
    call = serving(token=b"a-secret-of-letters")
    response = call.explain(png)
    assert _problem(response, 401).startswith("token: expected Authorization: Bearer")
    assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/metrics", "/openapi.json", "/page.json", "/examples/0.png", "/v1/models"):
        assert call("GET", path).status_code == 401
    for wrong in ("Bearer a-secret-of-letterz", "Basic a-secret-of-letters", "Bearer", "ü"):
        answered = call("GET", "/metrics", headers={"authorization": wrong.encode()})
        assert answered.status_code == 401
    right = {"authorization": "Bearer a-secret-of-letters"}
    assert call("GET", "/metrics", headers=right).status_code == 200
    assert call("GET", "/").status_code == call("GET", "/healthz").status_code == 200


def test_a_full_queue(serving, png) -> None:
    call = serving(places=2, seconds=0.3)

    async def crowd() -> list[httpx.Response]:
        async with call.client() as client:
            post = [client.post("/v1/explain", files={"image": png}) for _ in range(4)]
            return list(await asyncio.gather(*post))

    answered = asyncio.run(crowd())
    assert sorted(one.status_code for one in answered) == [200, 200, 503, 503]
    refused = next(one for one in answered if one.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert _problem(refused, 503).startswith("queue: full, 2 of at most 2 images are here already")
    assert call.explain(png).status_code == 200  # the places are free again


def test_more_instances_than_one_address_may_have(serving, png) -> None:
    body = {"instances": [{"b64": base64.b64encode(png).decode()}] * 3}
    response = serving(each=2)("POST", "/v1/models/tiny:predict", json=body)
    expected = "caller: expected at most 2 images in a request, got 3; send them in parts"
    assert _problem(response, 413) == expected  # later would not help


def test_more_instances_than_places(serving, png) -> None:
    body = {"instances": [{"b64": base64.b64encode(png).decode()}] * 3}
    response = serving(places=2)("POST", "/v1/models/tiny:predict", json=body)
    assert _problem(response, 413).startswith(
        "queue: expected at most 2 images in a request, got 3"
    )


def test_the_deadline(serving, png) -> None:
    response = serving(deadline=0.05, seconds=5).explain(png)
    assert _problem(response, 504).startswith("no answer within 0.05 s")
    assert response.headers["retry-after"] == "1"


def test_what_should_not_happen_tells_nothing_of_the_image(call, png, capsys, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("patient's name")

    monkeypatch.setattr("apercu.deploy.serving.prepared_image.read_stored", broken)
    response = _problem(call.explain(png), 500)
    result = capsys.readouterr()
    assert "ValueError" in response
    assert "patient" not in response + result.out + result.err


def test_every_error_has_its_status_in_the_docstring() -> None:
    kinds = [
        k for k in vars(errors).values() if isinstance(k, type) and k.__module__ == errors.__name__
    ]
    assert len(kinds) == 14
    for kind in kinds:
        [line] = [
            one for one in (errors.__doc__ or "").splitlines() if f"─ {kind.__name__} " in one
        ]
        assert f" {kind.status} " in line


def test_counters_and_headers(serving, png) -> None:
    call = serving()
    call.explain(png)
    call.explain(b"no image")
    call("GET", "/nothing")
    answered = call("GET", "/metrics")
    text = answered.text
    for line in (
        'apercu_requests_total{path="/v1/explain",status="200"} 1.0',
        'apercu_requests_total{path="/v1/explain",status="422"} 1.0',
        'apercu_requests_total{path="other",status="404"} 1.0',
        'apercu_request_seconds_count{path="/v1/explain"} 2.0',
        'apercu_batch_images_bucket{le="1.0"} 2.0',
        "apercu_queue_images 0.0",
        "apercu_images 0.0",
    ):
        assert line in text.splitlines()
    assert "default-src 'none'" in answered.headers["content-security-policy"]
    assert answered.headers["x-content-type-options"] == "nosniff"


def test_the_openapi_document_names_every_address(call) -> None:
    document = call("GET", "/openapi.json").json()
    assert json.dumps(document)
    assert set(document["paths"]) == {
        "/v1/explain",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/models/{name}:predict",
        "/v1/models/{name}:explain",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{name}",
        "/v2/models/{name}/ready",
        "/v2/models/{name}/infer",
        "/healthz",
        "/metrics",
    }
    description = document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert set(description) == {"text/plain"}
    fields = document["paths"]["/v1/explain"]["post"]["requestBody"]["content"]
    form = fields["multipart/form-data"]["schema"]["properties"]
    fields = {"target", "top", "level", "format", "picture", "frame", "bands"}
    assert set(form) == {"image", *fields}


def test_the_openapi_document_says_where_a_token_is_asked_for(serving) -> None:
    assert "securitySchemes" not in serving()("GET", "/openapi.json").json()["components"]
    token = {"Authorization": "Bearer abc"}
    document = serving(token=b"abc")("GET", "/openapi.json", headers=token).json()
    [(name, scheme)] = document["components"]["securitySchemes"].items()
    assert scheme == {"type": "http", "scheme": "bearer"}
    for path, [description] in ((path, one.values()) for path, one in document["paths"].items()):
        assert description.get("security") == (None if path in HEALTH_PATHS else [{name: []}])


def test_an_address_with_a_slash_too_many_leads_nowhere(call) -> None:
    assert call("GET", "/metrics/", headers={"Host": "elsewhere"}).status_code == 404
