"""`apercu train classifier`: the page of the manual from its first command on, and bad input."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apercu import open_classifier, read_picture
from apercu.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "train-a-classifier.md"
SMALL = {
    "--size 64": "--size 32",
    "timm/resnet10t": "timm/test_resnet",
    "pretrain transformation": "pretrain transformation --steps 2 --batch 8",
    "train classifier": "train classifier --steps 3 --batch 8",
    "train mask": "train mask --config small.yaml",
    "apercu export": "apercu export --no-combined",
}
"""What is smaller or shorter here than on the page."""
CLASSES = ("ill", "well")
PATIENCE = 120
"""Seconds that a busy machine may take to load everything."""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey images of two classes from 14 patients, with labels for most of them."""
    folder = tmp_path_factory.mktemp("few")
    (folder / "films").mkdir()
    draw = np.random.default_rng(0)
    rows = ["file,label,patient"]
    for number in range(32):
        pixels = draw.integers(0, 120, (32, 32), dtype=np.uint8)
        pixels[8:16, 8:16] += np.uint8(120 * (number % 2))
        Image.fromarray(pixels).save(folder / "films" / f"{number}.png")
        if number < 28:
            rows.append(f"{number}.png,{CLASSES[number % 2]},patient {number // 2}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "small.yaml").write_text(
        "preset: light\ndecoder: {width: 16}\nembedding: {steps: 2, batch: 4}\n"
        "schedule: {steps: 2, batch: 4}\n"
    )
    return folder


@pytest.fixture
def here(films: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(films)
    return films


def read_commands() -> list[list[str]]:
    block = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    text = block.replace("\\\n", " ")
    for words, fewer in SMALL.items():
        assert words in text
        text = text.replace(words, fewer)
    return [shlex.split(line)[1:] for line in text.splitlines()]


@dataclass(frozen=True)
class PageRun:
    """What the commands of the page left.

    Attributes:
        output: what each command printed, by its words.
        server: the process of the last command.
        url: where it listens.
    """

    output: dict[str, str]
    server: subprocess.Popen[str]
    url: str


@pytest.fixture(scope="module")
def page_run(films: Path) -> Iterator[PageRun]:
    """All commands of the page; the server loads while the one before it works."""
    *commands, serve = read_commands()
    assert serve[0] == "serve" and commands[-1][0] == "export"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    output: dict[str, str] = {}
    server = None
    with contextlib.chdir(films):
        try:
            for words in commands:
                if words[0] == "export":
                    command = [sys.executable, "-m", "apercu", *serve, "--port", port]
                    server = subprocess.Popen(
                        [*command, "--device", "cpu"],
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                    )
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
                    main(words)
                assert not stop.value.code, words
                output[" ".join(words)] = printed.getvalue()
            assert server is not None
            yield PageRun(output, server, f"http://127.0.0.1:{port}")
        finally:
            if server is not None and server.poll() is None:
                server.terminate()
                server.communicate(timeout=PATIENCE)


def test_the_page_leads_to_a_calibrated_classifier_in_use(
    apercu: Callable, page_run: PageRun, here: Path
) -> None:
    printed = next(text for words, text in page_run.output.items() if "train classifier" in words)
    assert "calibration error" in printed and "temperature" in printed
    card = json.loads((here / "runs" / "chest" / "card.json").read_text())
    assert card["temperature"] > 0 and card["source"] == "timm/test_resnet"
    assert open_classifier(here / "runs" / "chest").classes == CLASSES
    assert (here / "exported" / "explainer.onnx").is_file()
    assert list((here / "maps").glob("*"))
    page = (here / "runs" / "chest" / "report.html").read_text(encoding="utf-8")
    assert "Confusion matrix" in page and "gradual_unfreezing" in page
    predictions = (here / "runs" / "chest" / "predictions.csv").read_text().splitlines()
    assert predictions[0] == "file,unit,labels,probability of ill,probability of well"
    figures = json.loads((here / "runs" / "chest" / "figures.json").read_text())
    assert len(predictions) == 1 + figures["images"]["test"]
    words = ["stress", "train", "--classifier", "runs/chest", "--images", "films"]
    result = apercu(*words, "--steps", "1", "--batch", "4", "--out", "runs/hard")
    assert result.code == 0, result.err
    defended = json.loads((here / "runs" / "hard" / "card.json").read_text())
    assert "temperature" not in defended  # it was set for other weights


def test_the_last_command_serves_calibrated_probabilities_and_their_explanation(
    page_run: PageRun, here: Path
) -> None:
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    server, film = page_run.server, here / "films" / "12.png"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert server.poll() is None, server.communicate()[0]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{page_run.url}/healthz").status_code == 200:
                break
        time.sleep(0.05)
    assert "text/html" in httpx.get(f"{page_run.url}/").headers["content-type"]
    response = httpx.post(
        f"{page_run.url}/v1/explain", files={"image": film.read_bytes()}, timeout=PATIENCE
    )
    assert response.status_code == 200, response.text
    record = response.json()
    classifier = open_classifier(here / "runs" / "chest")
    batch = classifier.prepare(read_picture(film, channels=1))[None]
    expected = classifier.predict_probabilities(batch)[0].tolist()
    probabilities = {each["class"]: each["probability"] for each in record["top"]}
    assert probabilities == pytest.approx(dict(zip(CLASSES, expected, strict=True)), abs=1e-4)
    assert classifier.module is not None
    raw = classifier.module(classifier.normalise(batch)).softmax(1)[0].tolist()
    assert abs(raw[0] - expected[0]) > 0.01  # without the temperature they would be others
    assert record["read_by"] == "classifier"
    likeliest = max(probabilities, key=lambda name: probabilities[name])
    answer = record["answers"][0]
    assert answer["class"] == likeliest
    assert answer["probability"] == probabilities[likeliest]
    png = base64.b64decode(answer["map"]["png"])
    served = np.asarray(Image.open(io.BytesIO(png)), dtype=np.float32) / 255
    explained = np.load(here / "maps" / "12.map.npy")  # of `apercu explain` on the same page
    assert np.abs(served - explained).max() < 0.01 and np.ptp(served) > 0
    server.terminate()
    said, _ = server.communicate(timeout=PATIENCE)
    greeting, doubt = said.splitlines()  # nothing else, such as a warning of what is left
    assert server.returncode == 0
    assert greeting == f"serving runs/chest-masks: {page_run.url}/ (Ctrl-C ends it)"
    assert doubt.startswith("warning: runs/chest-masks: does not look trained: it had 2 steps")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (["0.png,a", "1.png,a", "2.png,a"], [], "all labels are a"),
        ([f"{n}.png,a" for n in range(9)] + ["9.png,b"], [], "class b has 1 image, "),
        (["x.png,a", "y.png,b"], [], "no label belongs to an image"),
        (["0.png,a", "1.png,b"], [], "expected at least 3"),
        (["0.png,a", "1.png,b"], ["--group", "patient"], "expected a column patient"),
        (["0.png,a", "1.png,b"], ["--recipe", "unknown"], "expected some of frozen"),
        (["0.png,a", "1.png,b"], ["--test-labels", "t.csv"], "name them with --test"),
    ],
)
def test_bad_input_is_one_line(
    apercu: Callable, here: Path, rows: list[str], options: list[str], message: str, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["file,label", *rows]) + "\n")
    words = ["train", "classifier", "--images", "films", "--labels", table, "--config", "scratch"]
    result = apercu(*words, "--network", "timm/test_resnet", "--out", tmp_path / "run", *options)
    assert result.code == 2 and message in result.err, result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_pretrained_network_is_no_classifier_yet(
    apercu: Callable, here: Path, tmp_path: Path
) -> None:
    words = ["--images", "films", "--channels", "1", "--size", "32", "--steps", "1", "--batch", "4"]
    run = tmp_path / "pretrained"
    words += ["--backbone", "timm/test_resnet", "--out", run]
    assert apercu("pretrain", "transformation", *words).code == 0
    words = ["--classifier", run / "card.json", "--images", "films", "--steps", "1"]
    result = apercu("stress", "train", *words, "--out", tmp_path / "hard")
    assert result.code == 2 and "apercu train classifier" in result.err
    assert len(result.err.strip().splitlines()) == 1
