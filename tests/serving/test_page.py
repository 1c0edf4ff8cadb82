"""The page, in a browser without a window."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apercu.deploy.serving.page import FOLDER

PATIENCE = 60_000
"""Milliseconds."""


@pytest.fixture(scope="module")
def address(listen: Callable[..., str]) -> str:
    return listen()


@pytest.fixture
def picture(png: bytes, tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(png)
    return str(path)


def _pixels(page: Any, selector: str) -> bytes:
    url = page.eval_on_selector(selector, "canvas => canvas.toDataURL()")
    return base64.b64decode(url.partition(",")[2])


def _until(page: Any, true: Callable[[], bool]) -> None:
    """Waits as Playwright's `wait_for_function` would, if the page allowed it to evaluate text."""
    end = time.monotonic() + PATIENCE / 1000
    while not true():
        assert time.monotonic() < end, "nothing happened"
        page.wait_for_timeout(50)


def test_classes_maps_and_dials(visit, address, picture) -> None:
    page = visit(address)
    page.set_input_files("#file", picture)
    page.wait_for_selector("#views canvas")
    assert page.locator("#classes li").count() == 3
    assert page.locator("#classes .share").first.inner_text().endswith("%")
    first = page.inner_text("#views h2")
    evidence, kept, removed = (f"#views figure:nth-child({n}) canvas" for n in (1, 2, 3))
    values = {_pixels(page, one) for one in (evidence, kept, removed)}
    assert len(values) == 3
    page.locator("#classes .class").nth(1).click()
    _until(page, lambda: page.inner_text("#views h2") != first)
    before = _pixels(page, evidence)
    page.fill("#opacity", "0.1")
    assert _pixels(page, evidence) != before
    soft = _pixels(page, kept)
    page.fill("#level", "0.05")
    assert _pixels(page, kept) != soft
    assert page.inner_text("output[for=level]") == "0.05"


def test_two_classes_are_compared(visit, address, picture) -> None:
    page = visit(address)
    page.set_input_files("#file", picture)
    page.wait_for_selector("#views canvas")
    page.locator(".versus").nth(2).click()
    _until(page, lambda: page.locator("#views h2").count() == 2)
    titles = page.locator("#views h2").all_inner_texts()
    names = page.locator("#classes .title").all_inner_texts()
    assert titles == [names[0], names[2]]
    page.locator(".versus").nth(2).click()
    _until(page, lambda: page.locator("#views h2").count() == 1)


def test_another_class_by_name_and_by_mistake(visit, address, picture) -> None:
    page = visit(address)
    page.set_input_files("#file", picture)
    page.wait_for_selector("#views canvas")
    page.fill("#name", "rings")
    page.press("#name", "Enter")
    _until(page, lambda: page.inner_text("#views h2") == "rings")
    page.fill("#name", "dotz")
    page.press("#name", "Enter")
    page.wait_for_selector("#said.wrong")
    assert page.inner_text("#said") == "target: no class is called 'dotz'; did you mean dots?"


def test_drop_and_paste(visit, address, png) -> None:
    page = visit(address)
    page.wait_for_selector("#examples button")
    send = """([text, kind]) => {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], "a.png", { type: "image/png" }));
      const event = kind === "drop"
        ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
      document.body.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        with page.expect_response(re.compile("/v1/explain")) as answered:
            page.evaluate(send, [base64.b64encode(png).decode(), kind])
        assert answered.value.status == 200
    page.wait_for_selector("#views canvas")


def test_the_keyboard_reaches_everything(visit, address) -> None:
    page = visit(address)
    page.wait_for_selector("#examples button")
    page.focus("#live")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the first example
    page.wait_for_selector("#views canvas")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        focus = "document.activeElement.dataset.key ?? document.activeElement.id"
        reached.add(page.evaluate(focus))
    keys = {f"class-{index}" for index in range(3)}
    assert keys | {"name", "opacity", "level", "save", "raw", "pick"} <= reached
    unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, canvas')]
      .filter((one) => one.checkVisibility() && !one.textContent.trim() && !one.labels?.length
        && !one.ariaLabel && !one.querySelector('img[alt]')).map((one) => one.outerHTML)""")
    assert unnamed == []


def test_what_the_browser_cannot_read_is_shown_by_the_server(
    visit, address, pixels, tmp_path
) -> None:
    import numpy as np

    np.save(tmp_path / "stamp.npy", pixels)
    page = visit(address)
    page.set_input_files("#file", str(tmp_path / "stamp.npy"))
    page.wait_for_selector("#views canvas")
    size = page.eval_on_selector("#views canvas", "canvas => [canvas.width, canvas.height]")
    assert size == [48, 40]


def test_another_frame_of_a_file(visit, address, tmp_path) -> None:
    pages = [Image.new("L", (48, 40), grey) for grey in (0, 255)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    page = visit(address)
    page.set_input_files("#file", str(tmp_path / "pages.tif"))
    page.wait_for_selector("#views canvas")
    assert page.inner_text("#count") == "of 2"
    removed = "#views figure:nth-child(3) canvas"
    first = _pixels(page, removed)
    page.fill("#frame", "2")
    page.press("#frame", "Enter")
    _until(page, lambda: _pixels(page, removed) != first)
    page.locator("#classes .class").nth(1).click()
    page.wait_for_timeout(200)
    assert page.input_value("#frame") == "2"
    page.set_input_files("#file", str(tmp_path / "pages.tif"))
    _until(page, lambda: page.input_value("#frame") == "1")


def test_what_nobody_can_read_leaves_no_other_map_behind(visit, address, picture, tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    page = visit(address)
    page.set_input_files("#file", picture)
    page.wait_for_selector("#views canvas")
    page.set_input_files("#file", str(tmp_path / "broken.png"))
    page.wait_for_selector("#said.wrong")
    assert not page.is_visible("#result") and not page.is_visible("#downloads")
    page.set_input_files("#file", picture)
    page.wait_for_selector("#views canvas")
    assert page.is_visible("#result")


def test_downloads(visit, address, picture) -> None:
    page = visit(address)
    page.set_input_files("#file", picture)
    page.wait_for_selector("#views canvas")
    for button, ending in (("#save", ".png"), ("#raw", ".map.png")):
        with page.expect_download() as download:
            page.click(button)
        assert download.value.suggested_filename.endswith(ending)
        assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_the_webcam(visit, address) -> None:
    page = visit(address, permissions=["camera"])
    page.wait_for_selector("#examples button")
    page.click("#live")
    _until(page, lambda: "frames per second" in page.inner_text("#rate"))
    first = _pixels(page, "#lens")
    _until(page, lambda: _pixels(page, "#lens") != first)
    assert "%" in page.inner_text("#seen")
    page.click("#stop")
    assert page.locator("#webcam").is_hidden()
    assert page.evaluate("document.getElementById('video').srcObject.active") is False


def test_the_token_unlocks_it(visit, listen) -> None:
    page = visit(listen(token=b"a-secret-of-letters"))
    page.wait_for_selector("#unlock:not([hidden])")
    page.fill("#token", "another-secret-of-letters")
    page.press("#token", "Enter")
    page.wait_for_selector("#said.wrong")
    page.fill("#token", "a-secret-of-letters")
    page.press("#token", "Enter")
    page.wait_for_selector("#examples button")
    assert page.locator("#unlock").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_lights(visit, address, picture, scheme) -> None:
    size = {"width": 360, "height": 740}
    page = visit(address, viewport=size, color_scheme=scheme, has_touch=True)
    page.set_input_files("#file", picture)
    page.wait_for_selector("#views canvas")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    colours = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colours == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 22, 27)")


def test_counterparts(visit, listen, tiny_pair, picture) -> None:
    page = visit(listen(worker=tiny_pair))
    page.set_input_files("#file", picture)
    page.wait_for_selector("#views .strip canvas")
    captions = page.locator("#views > .views > div > figure > figcaption").all_inner_texts()
    assert [one.partition(":")[0] for one in captions[:2]] == ["similar", "adversarial"]
    assert page.locator("#views .strip canvas").count() == 7
    assert page.locator("#classes .class:disabled").count() == 1
    assert page.locator("#cut").is_hidden()


def test_no_file_names_another_address() -> None:
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        results = set(re.findall(r"(?:https?:)?//[a-z][\w.]+", text))
        assert results <= {"http://www.w3.org"}
        assert " style=" not in text
        assert "onclick" not in text
