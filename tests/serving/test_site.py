"""The folder of `apercu export --format web`, from a plain web server, in a browser."""

from __future__ import annotations

import base64
import functools
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from apercu import MaskExplainer, read_picture
from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.outputs import Output
from apercu.deploy.export.page import PageSubject, list_examples
from apercu.deploy.export.web import describe_example

EXPLAIN = """async ([text, target]) => {
  const { explain } = await import("./page/local.js");
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const { answers, top, size } = await explain(new Blob([bytes]), { target, format: "array" });
  return { map: answers[0].map.array, top, size };
}"""
REFUSED_CAMERA = """navigator.mediaDevices.getUserMedia = () =>
  Promise.reject(new DOMException("Permission denied", "NotAllowedError"));"""
LOADED = "performance.getEntriesByType('navigation')[0].type"
# Chooses a file as soon as the server is asked for what it sends late.
BRING = """if (performance.getEntriesByType("navigation")[0].type === "navigate")
  fetch("asked").then(() => {
    const bytes = Uint8Array.from(atob("PICTURE"), (letter) => letter.charCodeAt(0));
    const chosen = new DataTransfer();
    chosen.items.add(new File([bytes], "own.png", { type: "image/png" }));
    document.getElementById("file").files = chosen.files;
    document.getElementById("file").dispatchEvent(new Event("change", { bubbles: true }));
  });"""
NAME = "tiny explainer"


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
        said = page.locator("#views .doubt").all_inner_texts()
        assert len(said) == (strongest < 0.5)
        nothing = [text for text in said if text.startswith("Nothing here speaks for")]
        assert page.locator("#result figure").count() == (1 if nothing else 4)
        assert page.locator(f"[data-key=class-{index}] :text('nothing here')").count() == len(
            nothing
        )
        words |= {text.partition(" ")[0] for text in said}
        for text in said:  # of the map at the size of the picture, in 255 steps
            number = text.partition("the strongest evidence is ")[2].partition(",")[0]
            assert float(number) == pytest.approx(strongest, abs=0.03)
    assert words <= {"Nothing", "Little"} and words


def test_pictures_are_explained_in_a_folder_of_any_server(open_site, bring, png, tmp_path) -> None:
    (tmp_path / "picture.png").write_bytes(png)
    page = open_site()
    words = "The first picture of your own downloads the explainer ("
    assert words in page.inner_text("#size")
    assert NAME in page.title() and "none is sent anywhere" in page.inner_text("#promise")
    bring(page, tmp_path / "picture.png")
    assert page.inner_text("#size") == ""
    assert page.locator("#classes li").count() == 3
    check_doubts(page, png)
    page.click("[data-key=versus-0]")
    page.wait_for_selector("#views .view:nth-child(2) canvas")
    for word, said in (("BANDS", ""), ("dotz", "No class is called “dotz”; did you mean dots?")):
        page.fill("#name", word)
        page.press("#name", "Enter")
        page.wait_for_selector("#near button" if said else "#near", state="attached")
        assert page.text_content("#missed") == said
    with page.expect_download() as download:
        page.click("#raw")
    with Image.open(download.value.path()) as map:
        assert (map.size, map.format) == ((32, 32), "PNG")
    page.reload()
    page.wait_for_selector("#examples img")
    assert page.inner_text("#size") == ""  # the browser kept the explainer


def test_examples_are_explained_before_anything_large_is_downloaded(visit, site_address) -> None:
    requests: list[str] = []
    page = visit(
        site_address,
        service_workers="block",
        prepare=lambda page: page.on("request", lambda request: requests.append(request.url)),
    )
    page.wait_for_selector("#work[aria-busy=false] #views canvas")
    page.click("[data-key=example-2]")
    page.wait_for_selector("#work[aria-busy=false] #views canvas")
    page.click("#classes li:nth-child(2) .class")
    page.wait_for_selector("#classes li:nth-child(2) [aria-pressed=true]")
    assert page.locator("#classes li").count() == 3
    assert page.is_visible("#size") and "guess" in page.inner_text("#verdict")
    assert any(url.endswith("2.png.json") for url in requests)
    assert not any(".onnx" in url or ".wasm" in url for url in requests)


def test_a_picture_is_displayed_while_the_explainer_arrives(visit, site_address, png) -> None:
    page = visit(site_address, service_workers="block")
    page.wait_for_selector("#work[aria-busy=false] #views canvas")
    file = {"name": "own.png", "mimeType": "image/png", "buffer": png}
    held: list[Any] = []
    page.context.route("**/combined.onnx.gz*", lambda route: held.append(route))
    page.set_input_files("#file", file)
    page.wait_for_selector("#views h2:has-text('Your picture')")
    assert page.is_hidden("#about") and page.is_hidden("#downloads")
    while not held:
        page.wait_for_timeout(20)
    held[0].continue_()
    page.wait_for_selector("#work[aria-busy=false] #about:not([hidden])")


def test_the_webcam_with_several_threads(open_site) -> None:
    page = open_site(permissions=["camera"])
    assert page.evaluate("crossOriginIsolated")  # pages without service workers have one thread
    page.click("#live")
    page.wait_for_selector("#rate:has-text('frames per second')")
    assert "%" in page.inner_text("#seen")
    page.click("#stop")
    assert page.locator("#webcam").is_hidden()


class SlowHandler(SimpleHTTPRequestHandler):
    """Sends one path half a second late, and says by `/asked` that a browser waits for it.

    Args:
        slow: `/isolate.js`, or `/`: the page that loads itself again.
        asked: set when it is asked for.
    """

    def __init__(self, *args: Any, slow: str, asked: threading.Event, **options: Any) -> None:
        self.slow, self.asked = slow, asked
        super().__init__(*args, **options)

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        if self.path == "/asked":
            self.asked.wait(30)
            self.send_response(204)
            self.end_headers()
            return
        is_first_page = self.path == "/" and "Cache-Control" not in self.headers
        if self.path == self.slow and not is_first_page:
            self.asked.set()
            time.sleep(0.5)
        with suppress(ConnectionError):  # a browser that stops loading
            super().do_GET()


@contextmanager
def serve_slowly(folder: Path, slow: str) -> Iterator[str]:
    handler = functools.partial(
        SlowHandler, slow=slow, asked=threading.Event(), directory=str(folder)
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("slow", ["/isolate.js", "/"])
def test_a_picture_stays_that_is_brought_before_the_page_has_loaded_itself_again(
    site, visit, png, slow
) -> None:
    bring = BRING.replace("PICTURE", base64.b64encode(png).decode())
    with serve_slowly(site, slow) as address:
        page = visit(address, prepare=lambda page: page.add_init_script(bring))
        page.wait_for_timeout(800)  # in which the page would load itself again
        page.wait_for_selector("#work[aria-busy=false] #views canvas")
        assert page.evaluate(LOADED) == "navigate"
        assert page.inner_text("#size") == ""  # the picture of one's own, and no example


def test_what_cannot_be_explained_is_told(open_site, tmp_path) -> None:
    page = open_site(
        service_workers="block", prepare=lambda page: page.add_init_script(REFUSED_CAMERA)
    )
    files = {
        "one.png": (_encode(np.zeros((1, 1, 3), np.uint8)), "at least 2 × 2 pixels, got 1 × 1"),
        "paper.pdf": (b"%PDF-1.7\n", "paper.pdf is a PDF document, which this browser cannot read"),
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
def test_a_browser_that_cannot_is_told(
    visit, bring, site, site_address, name, png, tmp_path
) -> None:
    script, code, words = BROKEN[name]
    text = (site / "page" / script).read_text(encoding="utf-8")

    def change(page: Any) -> None:
        kind = "text/javascript"
        page.context.route(
            f"**/page/{script}", lambda r: r.fulfill(body=code + text, content_type=kind)
        )

    page = visit(site_address, prepare=change, service_workers="block")
    (tmp_path / "own.png").write_bytes(png)
    if name != "simd":
        page.wait_for_selector("#work[aria-busy=false] #views canvas")
        page.set_input_files("#file", str(tmp_path / "own.png"))
    page.wait_for_selector(f"#said.wrong:has-text('{words}')")
    assert page.is_visible("#pick")
    if name == "memory":  # once other tabs are closed, the next picture is explained
        page.context.unroute_all()
        bring(page, tmp_path / "own.png")


def test_a_file_that_is_missing_or_changed_is_told(visit, site_address, png) -> None:
    own = {"name": "own.png", "mimeType": "image/png", "buffer": png}
    for body, words in ((None, "is missing on the server (404)"), (b"\x1f\x8bno", "is damaged")):

        def change(page: Any, body: bytes | None = body) -> None:
            answer = {"status": 404} if body is None else {"body": body}
            page.context.route("**/combined.onnx.gz*", lambda route: route.fulfill(**answer))

        page = visit(site_address, prepare=change, service_workers="block")
        page.wait_for_selector("#work[aria-busy=false] #views canvas")
        page.set_input_files("#file", own)
        page.wait_for_selector(f"#said.wrong:has-text('{words}')")


def test_the_page_lists_as_many_classes_as_its_examples() -> None:
    from apercu.deploy.export.page import FEW_CLASSES, PAGE_FOLDER

    assert f"export const FEW = {FEW_CLASSES};" in (PAGE_FOLDER / "names.js").read_text()


def test_the_folder_says_what_it_holds(site) -> None:
    from apercu.deploy.export import read_manifest

    about = json.loads((site / "page.json").read_text(encoding="utf-8"))
    for file in about["files"].values():
        assert (site / file["name"]).stat().st_size == file["bytes"]
    assert about["classes"] == ["stripes, bands", "dots", "rings"]
    assert read_manifest(site).files["combined"].file == "combined.onnx.gz"
    assert "MIT License" in (site / "runtime" / "LICENSE.txt").read_text(encoding="utf-8")
    assert len(about["example_files"]) == about["examples"] == 6


def test_the_maps_of_examples_are_those_of_python(site, tiny_run) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    about = json.loads((site / "page.json").read_text(encoding="utf-8"))
    for file, maps in zip(about["example_files"], about["example_maps"], strict=True):
        picture = read_picture((site / "examples" / file).read_bytes())
        image = explainer.classifier_info.prepare(picture)[None]
        record = json.loads((site / "examples" / maps).read_text(encoding="utf-8"))
        assert record["size"] == {"width": picture.shape[2], "height": picture.shape[1]}
        assert sum(record["probabilities"]) == pytest.approx(1, abs=1e-4)
        assert set(record["maps"]) == {"0", "1", "2"}
        for index, text in record["maps"].items():
            with Image.open(io.BytesIO(base64.b64decode(text))) as opened:
                actual = np.asarray(opened) / 255
            expected = explainer.attribute(image, [int(index)])[0].numpy()
            np.testing.assert_allclose(actual, expected, atol=0.6 / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_example_of_many_classes_has_maps_of_the_likeliest(channels: int) -> None:
    names = ClassNames.make_numbered(20)
    spec = InputSpec(channels=channels, size=(32, 32))
    subject = PageSubject("name", "mask", "classifier", names, spec, Output())

    def run(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        assert images.shape == (len(targets), channels, 32, 32)
        probabilities = torch.linspace(0, 1, 20).expand(len(targets), -1)
        return {"probabilities": probabilities, "maps": targets[:, None, None] / 40 * images[:, 0]}

    (_, content), *_ = list_examples(spec, names)
    record = describe_example(content, subject, run)
    assert list(record["maps"]) == [19, 18, 17, 16, 15, 14]
    assert record["size"] == {"width": 64, "height": 64}
