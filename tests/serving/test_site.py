"""The folder of `apercu export --format web`, from a plain web server, in a browser."""

from __future__ import annotations

import base64
import functools
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apercu import MaskExplainer, open_classifier, read_picture
from apercu.deploy.export import ExportInputs, ExportSettings, write_export
from apercu.deploy.export.web_runtime import read_web_runtime
from apercu.errors import ConfigError

EXPLAIN = """async ([text, target]) => {
  const { explain } = await import("./page/local.js");
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const { answers, top, size } = await explain(new Blob([bytes]), { target, format: "array" });
  return { map: answers[0].map.array, top, size };
}"""
REFUSED_CAMERA = """navigator.mediaDevices.getUserMedia = () =>
  Promise.reject(new DOMException("Permission denied", "NotAllowedError"));"""
NAME = "tiny explainer"


class QuietHandler(SimpleHTTPRequestHandler):
    """Sends files, and logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture(scope="module")
def site(tiny_run: Path, tiny_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, below the one that is served."""
    try:
        runtime = read_web_runtime()
    except ConfigError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("served") / "some folder" / "site"
    inputs = ExportInputs(open_classifier(tiny_card), web_runtime=runtime, name=NAME)
    write_export(MaskExplainer.from_pretrained(tiny_run), out, ExportSettings(("web",)), inputs)
    return out


@pytest.fixture(scope="module")
def site_address(site: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(site.parents[1]))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/some%20folder/site/"
        server.shutdown()


@pytest.fixture
def open_site(visit: Callable[..., Any], site_address: str) -> Callable[..., Any]:
    """Opens the page, and waits until it can explain."""

    def begin(**options: Any) -> Any:
        page = visit(site_address, **options)
        page.wait_for_selector("#examples img")
        return page

    return begin


def _encode(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def test_maps_equal_those_of_python(open_site, tiny_run, pixels) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter of a turn
    generator = np.random.default_rng(1)
    smooth = Image.fromarray(pixels).resize((301, 157))
    files = {
        "small": _encode(pixels[:5, :9]),
        "colour": _encode(np.asarray(smooth)),
        "grey": _encode(generator.integers(0, 256, (40, 700), dtype=np.uint8)),
        "transparent": _encode(generator.integers(0, 2, (64, 31, 4), dtype=np.uint8) * 255),
        "turned": _encode(np.asarray(smooth), "JPEG", quality=95, subsampling=0, exif=turned),
    }
    page = open_site(service_workers="block")
    for name, content in files.items():
        image = explainer.classifier_info.prepare(read_picture(content))[None]
        for target in range(3):
            sent = page.evaluate(EXPLAIN, [base64.b64encode(content).decode(), target])
            actual = np.array(sent["map"]).reshape(32, 32)
            expected = explainer.attribute(image, [target])[0].numpy()
            assert np.ptp(expected) > 2e-3
            np.testing.assert_allclose(actual, expected, atol=1e-4, err_msg=name)


def check_doubts(page: Any, png: bytes) -> None:
    """Look at each class: where little or nothing speaks for it, the page says so."""
    words = set()
    for index, name in enumerate(("stripes", "dots", "rings")):
        page.click(f"[data-key=class-{index}]")
        page.wait_for_selector(f"#views h2:has-text('{name}')")
        strongest = max(page.evaluate(EXPLAIN, [base64.b64encode(png).decode(), index])["map"])
        said = page.locator(".doubt").all_inner_texts()
        assert len(said) == (strongest < 0.5)
        words |= {text.partition(" ")[0] for text in said}
        for text in said:  # of the map at the size of the picture, in 255 steps
            number = text.partition("the strongest evidence is ")[2].partition(",")[0]
            assert float(number) == pytest.approx(strongest, abs=0.03)
    assert words <= {"Nothing", "Little"} and words


def test_pictures_are_explained_in_a_folder_of_any_server(open_site, png, tmp_path) -> None:
    (tmp_path / "picture.png").write_bytes(png)
    page = open_site()
    assert "The first picture downloads the explainer, " in page.inner_text("#said")
    assert NAME in page.title() and "none is sent anywhere" in page.inner_text("#promise")
    page.set_input_files("#file", str(tmp_path / "picture.png"))
    page.wait_for_selector("#views canvas")
    assert page.locator("#classes li").count() == 3
    assert page.locator("#views figure").count() == 4
    check_doubts(page, png)
    page.click("[data-key=versus-0]")
    page.wait_for_selector("#views .views:nth-child(2) canvas")
    for word, said in (("BANDS", ""), ("dotz", "no class is called 'dotz'; did you mean dots?")):
        page.fill("#name", word)
        page.press("#name", "Enter")
        page.wait_for_selector("#said.wrong" if said else "#said:not(.wrong)", state="attached")
        assert page.inner_text("#said").endswith(said)
    with page.expect_download() as download:
        page.click("#raw")
    with Image.open(download.value.path()) as map:
        assert (map.size, map.format) == ((32, 32), "PNG")
    page.reload()
    page.wait_for_selector("#examples img")
    assert page.inner_text("#said") == ""  # the browser kept the explainer


def test_the_webcam_with_several_threads(open_site) -> None:
    page = open_site(permissions=["camera"])
    assert page.evaluate("crossOriginIsolated")  # pages without service workers have one thread
    page.click("#live")
    page.wait_for_selector("#rate:has-text('frames per second')")
    assert "%" in page.inner_text("#seen")
    page.click("#stop")
    assert page.locator("#webcam").is_hidden()


def test_what_cannot_be_explained_is_told(open_site, tmp_path) -> None:
    page = open_site(
        service_workers="block", prepare=lambda page: page.add_init_script(REFUSED_CAMERA)
    )
    files = {
        "one.png": (_encode(np.zeros((1, 1, 3), np.uint8)), "at least 2 × 2 pixels, got 1 × 1"),
        "paper.pdf": (b"%PDF-1.7\n", "cannot read that file as a picture"),
    }
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#file", str(tmp_path / name))
        page.wait_for_selector(f"#said.wrong:has-text('{words}')")
        assert page.locator("#result").is_hidden()
    page.click("#live")
    page.wait_for_selector("#said.wrong:has-text('The webcam was not allowed.')")


BROKEN = {
    "simd": ("local.js", "WebAssembly.validate = () => false;", "WebAssembly with SIMD"),
    "memory": (
        "worker.js",
        "WebAssembly.Memory = function () { throw new RangeError('could not allocate memory'); };",
        "could not allocate memory). It needs about",
    ),
    "worker": ("worker.js", "throw new Error('no worker');", "The explainer stopped"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_browser_that_cannot_is_told(visit, site, site_address, name, png, tmp_path) -> None:
    script, code, words = BROKEN[name]
    text = (site / "page" / script).read_text(encoding="utf-8")

    def change(page: Any) -> None:
        kind = "text/javascript"
        page.context.route(
            f"**/page/{script}", lambda r: r.fulfill(body=code + text, content_type=kind)
        )

    page = visit(site_address, prepare=change, service_workers="block")
    if name != "simd":
        page.wait_for_selector("#examples img")
        page.locator("#examples button").first.click()
    page.wait_for_selector(f"#said.wrong:has-text('{words}')")
    if name == "memory":  # once other tabs are closed, the next picture is explained
        page.context.unroute_all()
        page.locator("#examples button").first.click()
        page.wait_for_selector("#views canvas")


def test_a_file_that_is_missing_or_changed_is_told(visit, site, site_address) -> None:
    for body, words in ((None, "is missing on the server (404)"), (b"\x1f\x8bno", "is damaged")):

        def change(page: Any, body: bytes | None = body) -> None:
            answer = {"status": 404} if body is None else {"body": body}
            page.context.route("**/combined.onnx.gz*", lambda route: route.fulfill(**answer))

        page = visit(site_address, prepare=change, service_workers="block")
        page.wait_for_selector("#examples img")
        page.locator("#examples button").first.click()
        page.wait_for_selector(f"#said.wrong:has-text('{words}')")


def test_the_folder_says_what_it_holds(site) -> None:
    from apercu.deploy.export import read_manifest

    about = json.loads((site / "page.json").read_text(encoding="utf-8"))
    for file in about["files"].values():
        assert (site / file["name"]).stat().st_size == file["bytes"]
    assert about["classes"] == ["stripes, bands", "dots", "rings"]
    assert read_manifest(site).files["combined"].file == "combined.onnx.gz"
    assert "MIT License" in (site / "runtime" / "LICENSE.txt").read_text(encoding="utf-8")
    assert len(about["example_files"]) == about["examples"] == 6
