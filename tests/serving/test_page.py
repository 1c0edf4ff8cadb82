"""The page, in a browser without a window."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apercu.classifiers.names import ClassNames
from apercu.deploy.serving.page import FOLDER
from apercu.deploy.serving.worker import ImageWorker, WorkerSetup, open_explainer

PATIENCE = 60_000
"""Milliseconds."""
PANELS = ("overlay", "kept", "removed", "original")


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


def test_classes_maps_and_dials(visit, bring, address, picture) -> None:
    page = visit(address)
    bring(page, picture)
    assert page.locator("#classes li").count() == 3
    assert page.locator("#classes .share").first.inner_text().endswith("%")
    first = page.inner_text("#views h2")
    evidence, kept, removed, original = (f"#result .{key} canvas" for key in PANELS)
    values = {_pixels(page, one) for one in (evidence, kept, removed, original)}
    assert len(values) == 4
    page.locator("#classes .class").nth(1).click()
    _until(page, lambda: page.inner_text("#views h2") != first)
    before = _pixels(page, evidence)
    page.fill("#opacity", "0.1")
    assert _pixels(page, evidence) != before
    soft = _pixels(page, kept)
    page.fill("#level", "0.05")
    assert _pixels(page, kept) != soft
    assert page.inner_text("output[for=level]") == "0.05"


def test_two_classes_are_compared(visit, bring, address, picture) -> None:
    page = visit(address)
    bring(page, picture)
    page.locator(".versus").nth(2).click()
    _until(page, lambda: page.locator("#views h2").count() == 2)
    titles = page.locator("#views h2").all_inner_texts()
    names = page.locator("#classes .title").all_inner_texts()
    assert titles == [names[0], names[2]]
    page.locator(".versus").nth(2).click()
    _until(page, lambda: page.locator("#views h2").count() == 1)


def test_another_class_by_name_and_by_mistake(visit, bring, address, picture) -> None:
    page = visit(address)
    bring(page, picture)
    page.fill("#name", "rings")
    page.press("#name", "Enter")
    _until(page, lambda: page.inner_text("#views h2") == "rings")
    page.fill("#name", "dotz")
    page.press("#name", "Enter")
    page.wait_for_selector("#near button")
    assert page.inner_text("#missed") == "No class is called “dotz”; did you mean dots?"
    page.click("#near button")
    _until(page, lambda: page.inner_text("#views h2") == "dots")
    assert page.is_hidden("#near")
    page.fill("#name", "quartz")
    page.press("#name", "Enter")
    page.wait_for_selector("#near button")
    words = "No class is called “quartz”; there are stripes, dots and rings."
    assert page.inner_text("#missed") == words


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
    visit, bring, address, pixels, tmp_path
) -> None:
    import numpy as np

    np.save(tmp_path / "stamp.npy", pixels)
    page = visit(address)
    bring(page, tmp_path / "stamp.npy")
    size = page.eval_on_selector("#views canvas", "canvas => [canvas.width, canvas.height]")
    assert size == [48, 40]


def test_another_frame_of_a_file(visit, bring, address, tmp_path) -> None:
    pages = [Image.new("L", (48, 40), grey) for grey in (0, 255)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    page = visit(address)
    bring(page, tmp_path / "pages.tif")
    assert page.inner_text("#count") == "of 2"
    removed = "#result .removed canvas"
    first = _pixels(page, removed)
    page.fill("#frame", "2")
    page.press("#frame", "Enter")
    _until(page, lambda: _pixels(page, removed) != first)
    page.locator("#classes .class").nth(1).click()
    page.wait_for_timeout(200)
    assert page.input_value("#frame") == "2"
    page.set_input_files("#file", str(tmp_path / "pages.tif"))
    _until(page, lambda: page.input_value("#frame") == "1")


def test_what_nobody_can_read_leaves_no_other_map_behind(
    visit, bring, address, picture, tmp_path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    page = visit(address)
    bring(page, picture)
    page.set_input_files("#file", str(tmp_path / "broken.png"))
    page.wait_for_selector("#said.wrong")
    assert not page.is_visible("#result") and not page.is_visible("#downloads")
    bring(page, picture)
    assert page.is_visible("#result")


def test_downloads(visit, bring, address, picture) -> None:
    page = visit(address)
    bring(page, picture)
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
def test_it_fits_a_phone_in_both_lights(visit, bring, address, picture, scheme) -> None:
    size = {"width": 360, "height": 740}
    page = visit(address, viewport=size, color_scheme=scheme, has_touch=True)
    bring(page, picture)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    colours = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colours == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 22, 27)")


def test_counterparts(visit, bring, listen, tiny_pair, picture) -> None:
    page = visit(listen(worker=tiny_pair))
    bring(page, picture)
    captions = page.locator("#views figcaption, #others figcaption").all_inner_texts()
    titles = [one.strip().rpartition("\n")[2].partition(":")[0] for one in captions]
    assert titles[:4] == ["Similar", "Changed", "Difference", "Original"]
    assert page.locator("#others .strip canvas").count() == 7
    assert page.locator("#classes .class:disabled").count() == 1
    assert page.locator("#cut").is_hidden()


def test_no_file_names_another_address() -> None:
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        results = set(re.findall(r"(?:https?:)?//[a-z][\w.]+", text))
        assert results <= {"http://www.w3.org"}
        assert " style=" not in text
        assert "onclick" not in text


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
UNREADABLE = {
    "paper.pdf": (b"%PDF-1.7\n" + bytes(100), "paper.pdf is a PDF document, which"),
    "phone.heic": (HEIC, "phone.heic is a HEIC picture, as phones of Apple make them, which"),
    "empty.png": (b"", "empty.png is empty (0 bytes)"),
    "notes.jpg": (b"milk, bread\n" * 9, "notes.jpg is a text, which"),
    "page.png": (b"<!doctype html><p>x", "page.png is a web page, which"),
    "film.mp4": (b"\0\0\0\x18ftypisom" + bytes(99), "film.mp4 is a film, which"),
    "papers.zip": (b"PK\3\4" + bytes(99), "papers.zip is an archive or office document, which"),
    "cut.png": (b"\x89PNG\r\n\x1a\n" + bytes(9), "cut.png cannot be read as a picture by"),
}
"""Files that are no pictures for a reader, and how the line about them begins."""


@pytest.mark.parametrize("reader", ["this server", "this browser"])
def test_each_file_that_is_no_picture_gets_one_line(visit, address, reader, request) -> None:
    is_server = reader == "this server"
    page = visit(address if is_server else request.getfixturevalue("site_address"))
    page.wait_for_selector("#work[aria-busy=false] #views canvas")
    for name, (content, words) in UNREADABLE.items():
        file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        page.set_input_files("#file", file)
        page.wait_for_selector(f"#said.wrong:has-text('{words}')")
        line = page.inner_text("#said")
        assert reader in line or "empty" in line
        assert "\n" not in line and len(line) < 160
        assert page.is_hidden("#work") and page.is_visible("#pick")


@pytest.mark.parametrize("reader", ["this server", "this browser"])
def test_odd_pictures_get_one_line_or_an_explanation(visit, address, reader, request) -> None:
    page = visit(address if reader == "this server" else request.getfixturevalue("site_address"))
    if reader == "this browser":  # the page may load itself once more before it can explain
        page.wait_for_selector("#examples img")
    frames = [Image.new("RGB", (30, 20), (80 * n, 0, 0)) for n in range(3)]
    files = {
        "one.png": (_encode(frames[0].resize((1, 1))), "at least 2 × 2 pixels, got 1 × 1"),
        "huge.png": (_encode(Image.new("1", (12_000, 9_000))), "too large, expected at most"),
        "flat.png": (_encode(frames[1]), ""),
        "moves.gif": (
            _encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
            "This picture moves; its first frame is explained.",
        ),
    }
    for name, (content, words) in files.items():
        page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})
        if words.startswith(("at", "too")):
            page.wait_for_selector(f"#said.wrong:has-text('{words}')")
            assert page.is_hidden("#work")
        else:
            page.wait_for_selector("#work[aria-busy=false] #views canvas")
            _until(page, lambda words=words: page.inner_text("#said") == words)


SLOW_START = """
const fetched = window.fetch;
let isFirst = true;
window.fetch = async (...asked) => {
  if (String(asked[0].url ?? asked[0]).includes("page.json") && isFirst) {
    isFirst = false;
    await new Promise((resolve) => setTimeout(resolve, 1000));
    window.isLate = true;
  }
  return fetched(...asked);
};
"""
"""The page's first look at the explainer takes a second."""


def test_a_late_start_does_not_overwrite_the_line_on_a_picture(visit, address) -> None:
    page = visit(address, prepare=lambda page: page.add_init_script(SLOW_START))
    tiny = _encode(Image.new("RGB", (1, 1)))
    page.set_input_files("#file", {"name": "one.png", "mimeType": "", "buffer": tiny})
    page.wait_for_selector("#said.wrong:has-text('at least 2 × 2 pixels')")
    _until(page, lambda: page.evaluate("window.isLate === true"))
    page.wait_for_timeout(500)  # until its answer is read
    assert "at least 2 × 2 pixels" in page.inner_text("#said")


def _encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_several_files_a_folder_and_words_that_are_dropped_or_pasted(visit, address, png) -> None:
    page = visit(address)
    page.wait_for_selector("#work[aria-busy=false] #views canvas")
    drop = """([text, names, kind]) => {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      const data = new DataTransfer();
      for (const name of names) data.items.add(new File([bytes], name, { type: "image/png" }));
      if (!names.length) data.setData("text/plain", "some words");
      const options = { bubbles: true, cancelable: true };
      document.body.dispatchEvent(kind === "drop"
        ? new DragEvent("drop", { ...options, dataTransfer: data })
        : new ClipboardEvent("paste", { ...options, clipboardData: data }));
    }"""
    text = base64.b64encode(png).decode()
    page.evaluate(drop, [text, ["a.png", "b.png", "c.png"], "drop"])
    words = "3 files were brought; this is a.png. Bring them one by one."
    _until(page, lambda: page.inner_text("#said") == words)
    for kind, words in (("drop", "That is no file"), ("paste", "There is no picture on")):
        page.evaluate(drop, [text, [], kind])
        page.wait_for_selector(f"#said.wrong:has-text('{words}')")
        assert page.is_visible("#result")
    page.evaluate("""() => {
      File.prototype.slice = () => ({ arrayBuffer: () => Promise.reject(new Error()) });
    }""")
    page.evaluate(drop, [text, ["holiday"], "drop"])
    page.wait_for_selector("#said.wrong:has-text('holiday is a folder, or cannot be read')")


def test_a_server_that_is_gone_is_told(visit, bring, address, picture) -> None:
    page = visit(address)
    bring(page, picture)
    page.evaluate("[window.kept, window.fetch] = [fetch, () => Promise.reject(new Error())]")
    page.set_input_files("#file", picture)
    page.wait_for_selector("#said.wrong:has-text('The server does not answer')")
    page.evaluate("window.fetch = window.kept")
    bring(page, picture)
    assert page.inner_text("#said") == ""


def test_fingers_reach_all_controls_of_a_phone(visit, address) -> None:
    page = visit(address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.wait_for_selector("#work[aria-busy=false] #views canvas")
    small = page.evaluate("""() => [...document.querySelectorAll("button, input")]
      .filter((one) => one.checkVisibility())
      .map((one) => [one.id || one.className || one.dataset.key, one.getBoundingClientRect()])
      .filter(([, { width, height }]) => Math.min(width, height) < 40).map(([name]) => name)""")
    assert small == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


PAIRS = {"ink": ("paper", "panel", "bar", "note"), "soft": ("paper", "panel", "bar")}
PAIRS |= {"wrong": ("paper",), "on": ("first",)}
"""Colours of texts, and those behind them."""


def test_all_texts_stand_out_from_what_is_behind_them() -> None:
    text = (FOLDER / "page.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--(\w+): #(\w+)", line)) for line in text.splitlines()[:2]]
    assert all(len(colours) == 11 for colours in schemes)
    for colours in schemes:
        pairs = [(one, other, 4.5) for one, others in PAIRS.items() for other in others]
        for one, other, least in (*pairs, ("edge", "paper", 3), ("first", "paper", 3)):
            light, dark = sorted((_luminance(colours[name]) for name in (one, other)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= least, (one, other)


def _luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    whole = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    values = [int(whole[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_names_that_are_near_a_word(visit, address) -> None:
    classes = ["tabby, tabby cat", "tiger cat", "golden retriever", "crane", "crane", "3"]
    find = """async ([classes, words]) => {
      const { findClasses, nearClasses } = await import("/page/names.js");
      return words.map((word) => [findClasses(classes, word), nearClasses(classes, word)]);
    }"""
    words = ["Tabby Cat", "crane", "1", "3", "9", "retreiver", "cat", "golden", "xyzzy"]
    results = visit(address).evaluate(find, [classes, words])
    matches = [[0], [3, 4], [1], [5], [], [], [], [], []]
    assert [result[0] for result in results] == matches
    near = {word: result[1] for word, result in zip(words, results, strict=True)}
    assert near["retreiver"] == near["golden"] == [2]
    assert sorted(near["cat"])[:2] == [0, 1] and near["xyzzy"] == []


def test_the_page_names_classes_as_the_command_does(visit, address) -> None:
    classes = ["tabby, tabby cat", "car, red", "car, blue", "crane", "crane", "Cat", "cat", ""]
    name = """async ([classes, words]) => {
      const { distinguish, findClasses, short } = await import("/page/names.js");
      distinguish(classes);
      return [classes.map(short), words.map((word) => findClasses(classes, word))];
    }"""
    short, matches = visit(address).evaluate(name, [classes, ["Cat", "cat", "CAT", "car"]])
    names = ClassNames.of(classes)
    assert short == list(names.short_names)
    assert matches == [names.find_by_name(word) for word in ("Cat", "cat", "CAT", "car")]


def test_an_example_does_not_replace_a_picture_that_is_brought_early(
    visit, address, picture
) -> None:
    held: list[Any] = []
    hold = "**/page.json", lambda route: held.append(route)
    page = visit(address, prepare=lambda page: page.context.route(*hold))
    page.set_input_files("#file", picture)
    _until(page, lambda: len(held) == 2)
    for route in held:
        route.continue_()
    page.wait_for_selector("#work[aria-busy=false] #about:not([hidden])")
    size = page.eval_on_selector("#views canvas", "canvas => [canvas.width, canvas.height]")
    assert size == [48, 40]


TRUST = {"tampered": 0.4, "unknown": 0.31, "confidence": 0.934, "alarms": [], "why": "as usual"}


def test_a_mark_says_whether_to_believe_the_classes(
    visit, bring, listen, picture, tiny_run, tiny_card, tiny_guard
) -> None:
    setup = WorkerSetup(tiny_run, str(tiny_card), 1_000_000, guard=str(tiny_guard))
    page = visit(listen(worker=ImageWorker(open_explainer(setup), 1_000_000)))
    bring(page, picture)
    said = page.inner_text("#trust")
    assert "Do not rely on this: the guard finds the picture" in said  # noise is no clean image
    assert page.inner_text("#trust .mark") == "!"
    assert page.get_attribute("#trust", "class") == "alarm"


def test_without_a_guard_there_is_no_mark(visit, bring, address, picture) -> None:
    page = visit(address)
    bring(page, picture)
    assert page.locator("#verdict").is_visible() and page.locator("#trust").is_hidden()


def test_an_estimated_probability_has_a_sign(visit, address) -> None:
    describe = """async (record) => (await import("/page/words.js")).describeVerdict(record, 1)"""
    page = visit(address)
    top = [
        {"class": name, "index": index, "probability": probability}
        for index, (name, probability) in enumerate((("cat", 0.31), ("dog", 0.0001)))
    ]
    for read_by, first, second in (
        ("classifier", "31 %", "< 0.1 %"),
        ("explainer", "~31 %", "< ~0.1 %"),
    ):
        words = page.evaluate(describe, {"read_by": read_by, "top": top})
        assert f"cat ({first}), then dog ({second})" in words


def test_what_the_mark_says(visit, address) -> None:
    describe = """async (trust) => (await import("/page/words.js")).describeTrust(trust)"""
    page = visit(address)
    usual = page.evaluate(describe, TRUST)
    words = "The guard raises no alarm: as usual. Calibrated confidence: 93 %."
    assert usual == {"sign": "✓", "kind": "usual", "words": words}
    alarm = page.evaluate(describe, TRUST | {"alarms": ["tampered"], "tampered": 0.98})
    assert (alarm["sign"], alarm["kind"]) == ("!", "alarm")
    assert "finds the picture tampered, more so than 98 % of the clean images" in alarm["words"]
    both = {"alarms": ["tampered", "unknown"], "tampered": 0.9967, "unknown": 0.57}
    assert (
        "tampered, more so than 99 % of the clean images, and unknown, more so than 57 % of the "
        "clean images (as usual)" in page.evaluate(describe, TRUST | both)["words"]
    )
    lost = dict.fromkeys(("tampered", "unknown", "confidence"))
    open_mark = page.evaluate(describe, TRUST | lost | {"why": "it cannot be judged: …"})
    assert (open_mark["sign"], open_mark["kind"]) == ("?", "open")
    assert "cannot say whether to believe this (it cannot be judged: …)" in open_mark["words"]
