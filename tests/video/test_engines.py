"""A run and its export explain a frame alike, and as the explainer and the classifier do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from apercu import MaskExplainer, open_classifier
from apercu.errors import ConfigError, RunError
from apercu.explainers.run import open_run
from apercu.export import ExportSettings, export
from apercu.export.materials import Materials
from apercu.video import open_engine
from apercu.video.onnx_engine import OnnxEngine
from apercu.video.torch_engine import TorchEngine


@pytest.fixture(scope="session")
def exported(tiny_run: Path, tiny_card: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    materials = Materials(open_classifier(tiny_card), None, None)
    export(open_run(tiny_run), out, ExportSettings(combined=True), materials, lambda line: None)
    return out


@pytest.fixture
def damaged(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "exported"))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((3, 32, 32), np.float32)


@pytest.mark.parametrize("target", [-1, 0, 2])
def test_both_engines_answer_as_explainer_and_classifier_do(
    exported, tiny_run, tiny_card, image, target: int
) -> None:
    classifier = open_classifier(tiny_card)
    images = torch.from_numpy(image)[None]
    logits = classifier(images)
    asked = int(logits.argmax()) if target < 0 else target
    expected = MaskExplainer.from_pretrained(tiny_run).attribute(images, asked)[0]
    engines = {TorchEngine: open_engine(tiny_run, classifier), OnnxEngine: open_engine(exported)}
    for kind, engine in engines.items():
        assert isinstance(engine, kind)
        assert (engine.size, engine.channels) == ((32, 32), 3)
        assert engine.names.names == ("stripes, bands", "dots", "rings")
        answer = engine(image, target)
        np.testing.assert_allclose(answer.map, expected, atol=1e-4)
        np.testing.assert_allclose(answer.probabilities, logits.softmax(1)[0].detach(), atol=1e-5)


def test_without_the_classifier_the_explainer_predicts(tiny_run, image) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    expected = explainer.answers(torch.from_numpy(image)[None]).softmax(1)[0]
    found = open_engine(tiny_run)(image).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_cannot_explain_a_video_is_told(exported, damaged, tiny_card, tmp_path) -> None:
    with pytest.raises(RunError, match=r"expected a run folder, found no config\.json"):
        open_engine(tmp_path / "none")
    with pytest.raises(ConfigError, match="is an export and predicts itself; leave it out"):
        open_engine(exported, open_classifier(tiny_card))
    (damaged / "combined.onnx").write_bytes(b"other")
    with pytest.raises(RunError, match=r"combined\.onnx: missing, or not what explainer\.json"):
        open_engine(damaged)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "counterpart"}, "expected an export of masks, got one of counterparts"),
        ({"input": {"channels": 5, "size": [32, 32]}}, "images of 5 channels"),
        ({"input": {"channels": 3, "size": [32, 32], "range": "counts"}}, "images of raw counts"),
        ({"files": {}}, r"found no combined\.onnx; export again with --combined"),
    ],
)
def test_exports_of_other_kinds_are_told(damaged, change: dict, words: str) -> None:
    path = damaged / "explainer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunError, match=words):
        open_engine(damaged)
