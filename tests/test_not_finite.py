"""Logits that are NaN or infinite for one image: one line names it, and the others go on."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import apercu
from apercu.classifiers import Classifier
from apercu.cli import main
from apercu.deploy.serving.requests import ExplainRequest, RequestOptions
from apercu.deploy.serving.worker import ImageWorker, WorkerSetup, open_explainer
from apercu.errors import NotFiniteError, name_images
from apercu.evaluation.sample import draw_sample
from apercu.log import redirect_warnings

NOT_A_NUMBER = "is not a number (NaN) or infinite"


class LosesWhite(nn.Module):
    """Three logits of the mean colour; those of white images are not finite."""

    def __init__(self, value: float = torch.nan) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: Tensor) -> Tensor:
        logits = images.mean((2, 3))
        return logits.masked_fill((logits.mean(1) > 0.99)[:, None], self.value)


def open_network(value: float = torch.nan, **output: Any) -> Classifier:
    module = LosesWhite(value)
    return apercu.open_classifier(module, size=32, mean=(0,) * 3, std=(1,) * 3, **output)


@pytest.fixture
def images() -> Tensor:
    return torch.tensor([0.5, 1.0, 0.0, 1.0])[:, None, None, None].expand(4, 3, 32, 32)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("output", ["logits", "sigmoid"])
def test_a_classifier_says_for_which_images(value: float, output: str, images: Tensor) -> None:
    classifier = open_network(value, output=output)
    for call in (classifier, lambda each: apercu.methods.get("gradient")(classifier, each)):
        with pytest.raises(NotFiniteError) as caught:
            call(images)
        assert caught.value.rows == (1, 3)
        line = f"its output for 2 of 4 images {NOT_A_NUMBER}, the first is image 2; check"
        assert line in str(caught.value)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.rows) == (str(caught.value), (1, 3))
    with pytest.raises(NotFiniteError, match="its output for the image is not"):
        classifier(images[1:2])
    assert classifier(images[::2]).isfinite().all()
    with (
        pytest.raises(NotFiniteError, match=r"its output for b and 1 more is not"),
        name_images("abcd"),
    ):
        classifier(images)


def test_minus_infinity_is_a_probability_of_zero(images: Tensor) -> None:
    class Logarithm(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            first = images.mean((1, 2, 3))
            return torch.stack((first, 1 - first), 1).log()

    classifier = apercu.open_classifier(Logarithm(), size=32, mean=(0,) * 3, std=(1,) * 3)
    expected = torch.tensor([[0.5, 0.5], [1, 0], [0, 1], [1, 0]])
    torch.testing.assert_close(classifier.predict_probabilities(images), expected)


def test_a_sample_leaves_them_out(white_folder: Path) -> None:
    lines: list[str] = []
    with redirect_warnings(lines.append):
        source = apercu.open_images(white_folder, channels=3)
        sample = draw_sample(open_network(output="logits"), source, None, 0)
    assert sample.left_out == ("b-white.png",) and len(sample.everything) == 2
    (line,) = lines
    start = f"{white_folder}: 1 of 3 images cannot be used and are left out, the first because"
    assert line.startswith(start)
    assert f"its output for b-white.png {NOT_A_NUMBER}" in line


@pytest.mark.usefixtures("lose_white_images")
def test_explain_names_the_image(
    tiny_run: Path, white_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explainer = apercu.MaskExplainer.from_pretrained(tiny_run)
    with pytest.raises(NotFiniteError, match=r"the prediction for b-white\.png is not a number"):
        explainer.explain(white_folder / "b-white.png")
    with pytest.raises(SystemExit, match="2"):
        main(["explain", str(tiny_run), str(white_folder), "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert f"the prediction for b-white.png {NOT_A_NUMBER}" in said.err
    record = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert [each["image"] for each in record["images"]] == ["a-grey.png", "c-black.png"]


@pytest.mark.usefixtures("lose_white_images")
def test_a_batch_goes_on(tiny_run: Path, white_folder: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    explainer, out = apercu.MaskExplainer.from_pretrained(tiny_run), tmp_path / "out"
    summary = apercu.explain_dataset(explainer, white_folder, out, threads=1)
    assert summary.manifest["errors"] == 1
    rows = pq.read_table(next((out / "maps").glob("*.parquet"))).to_pylist()
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert f"the explanation for b-white.png {NOT_A_NUMBER}" in rows[1]["error"]
    assert rows[1]["probability"] is None and rows[1]["map"] is None


@pytest.mark.usefixtures("lose_white_images")
def test_a_server_answers_the_others(tiny_run: Path, white_folder: Path) -> None:
    worker = ImageWorker(open_explainer(WorkerSetup(tiny_run)), 1_000_000)
    files = sorted(white_folder.iterdir())
    prepared = [
        worker.prepare(ExplainRequest(file.read_bytes(), RequestOptions(format="png")))
        for file in files
    ]
    answers = [worker.write(each) for each in worker.explain(prepared)]
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert "the prediction for the image is not a number" in answers[1].body.decode()


@pytest.mark.usefixtures("lose_white_images")
def test_a_guard_checks_the_others(
    tiny_card: Path, tiny_run: Path, tiny_guard: Path, white_folder: Path
) -> None:
    guard = apercu.open_guard(tiny_card, tiny_guard, tiny_run)
    checked = list(apercu.check_files(guard, [white_folder]))
    assert [each.error is None for each in checked] == [True, False, True]
    assert checked[1].name == "b-white.png" and NOT_A_NUMBER in checked[1].line
    white = torch.ones(2, 3, 32, 32)
    with pytest.raises(NotFiniteError, match=r"its output for 1 of 2 images .*first is image 2"):
        guard.check(torch.stack((white[0] / 2, white[1])))


def test_the_runtime_names_the_image(
    tiny_export: Path, white_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import apercu_runtime

    explainer = apercu_runtime.load_explainer(tiny_export)

    class Session:
        def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
            values = session.run(names, inputs)
            is_white = inputs["images"].reshape(len(inputs["images"]), -1).mean(1) > 0.99
            for value in values:
                value[is_white] = np.nan
            return values

    session = explainer._session
    monkeypatch.setattr(explainer, "_session", Session())
    assert np.isfinite(explainer.explain(white_folder / "a-grey.png").map).all()
    with pytest.raises(apercu_runtime.ImageError, match=r"^b-white\.png: its .* not numbers"):
        explainer.explain(white_folder / "b-white.png")
    pictures = [np.asarray(Image.open(file)) for file in sorted(white_folder.iterdir())]
    batch = np.stack([explainer.prepare(picture) for picture in pictures])
    for call in (explainer, explainer.predict):
        with pytest.raises(apercu_runtime.ImageError, match=r"^image 2 of 3: its "):
            call(batch)
