"""Maps per second of `apercu export --format web` in Chromium, and what the folder takes.

    python benchmarks/browser.py [FOLDER] [--seconds 10]

FOLDER is an exported folder; without it, the ready-made explainer is exported to a temporary one.
A plain web server of this machine sends it. Frames of 320 × 240 pixels are explained one after the
other: with one thread, with several (which a service worker makes possible), and from Chromium's
fake webcam with all that the page draws. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import tempfile
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

import apercu
from apercu.explainers.ready import list_photographs

MEGABYTES, RATE = 40, 10.0
"""Largest size of the folder, and fewest maps per second with several threads."""
TIMEOUT = 120_000
"""Milliseconds that the browser may take for one step."""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WORDS = ("--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
FRAMES = """async (seconds) => {
  const { explainFrame } = await import("./page/local.js");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [320, 240];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const explain = () => explainFrame(canvas, pen.getImageData(0, 0, 320, 240));
  for (let frame = 0; frame < 5; frame++) await explain();
  const start = performance.now();
  const times = [];
  for (let now = start; now < start + 1000 * seconds; now = performance.now()) {
    pen.fillStyle = `hsl(${now % 360} 80% 50%)`;
    pen.fillRect(now % 200, 50, 90, 90);
    await explain();
    times.push(performance.now() - now);
  }
  times.sort((one, other) => one - other);
  return times[times.length >> 1];
}"""


class QuietHandler(SimpleHTTPRequestHandler):
    """A handler that sends files and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        return


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--seconds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "site"
        if arguments.folder is None:
            apercu.export("ready:efficientnet_lite0", folder, ["web"])
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        print(f"folder  {size:6.1f} MB  at most {MEGABYTES}")
        handler = functools.partial(QuietHandler, directory=str(folder))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever).start()
            try:
                rate = measure_site(f"http://127.0.0.1:{server.server_port}/", arguments.seconds)
            finally:
                server.shutdown()
    return int(size > MEGABYTES or rate < RATE)


def measure_site(address: str, seconds: int) -> float:
    """Return the maps per second with several threads; all figures are printed."""
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        other = next(filter(None, map(shutil.which, CHROMIUM)), None)
        path = own if Path(own).exists() else other
        browser = playwright.chromium.launch(executable_path=path, args=list(WORDS))
        measure_page(browser, address, seconds, threads=False)
        return measure_page(browser, address, seconds, threads=True)


def measure_page(browser: Browser, address: str, seconds: int, *, threads: bool) -> float:
    """Return the maps per second of one page, with one thread or with several."""
    workers = "allow" if threads else "block"
    context = browser.new_context(permissions=["camera"], service_workers=workers)
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(address)
    page.wait_for_selector("#examples img")
    page.wait_for_selector("#work[aria-busy=false] #views canvas")
    start = time.perf_counter()
    page.set_input_files("#file", str(list_photographs()[0]))
    page.wait_for_selector("#work[aria-busy=false] #views canvas")
    first = time.perf_counter() - start
    milliseconds = page.evaluate(FRAMES, seconds)
    page.click("#live")
    page.wait_for_timeout(1000 * seconds)
    webcam = page.inner_text("#rate")
    context.close()
    name = "several threads" if threads else "one thread"
    print(
        f"{name}: first picture after {first:.1f} s; {milliseconds:.0f} ms per map (median), "
        f"{1000 / milliseconds:.1f} maps per second; webcam {webcam}"
    )
    return 1000 / milliseconds


if __name__ == "__main__":
    raise SystemExit(main())
