"""`apercu train classifier`: the page of the manual from its first command on, and bad input."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apercu import open_classifier

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "train-a-classifier.md"
SMALL = {
    "--size 64": "--size 32",
    "timm/resnet10t": "timm/test_resnet",
    "pretrain transformation": "pretrain transformation --steps 2 --batch 8",
    "train classifier": "train classifier --steps 3 --batch 8",
    "train mask": "train mask --config small.yaml --encoder small",
}
"""What is smaller or shorter here than on the page."""
CLASSES = ("ill", "well")


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
        "preset: small\ndecoder: {width: 16}\nembedding: {steps: 2, batch: 4}\n"
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


def test_the_page_leads_to_a_calibrated_classifier_in_use(apercu: Callable, here: Path) -> None:
    *commands, serve = read_commands()
    assert serve[0] == "serve"
    for words in commands:
        result = apercu(*words)
        assert result.code == 0, result.err
        if words[:2] == ["train", "classifier"]:
            assert "calibration error" in result.out and "temperature" in result.out
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
