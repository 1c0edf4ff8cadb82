"""What cannot be opened is told in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from apercu import MaskExplainer
from apercu.deploy.export import ExportSettings, write_export
from apercu.deploy.inference import choose_engine_device, is_export, open_engine
from apercu.errors import ConfigError, RunError
from apercu.explainers.run_folder import check_run, load_doubts
from apercu.log import redirect_warnings


@pytest.fixture
def damaged(tiny_export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_export, tmp_path / "exported"))


def test_an_export_is_known_by_its_manifest(tiny_run, tiny_export, tmp_path) -> None:
    assert [is_export(path) for path in (tiny_export, tiny_run, tmp_path)] == [True, False, False]


def test_a_trained_classifier_is_no_explainer(tmp_path) -> None:
    for name in ("card.json", "config.json", "weights.safetensors"):
        (tmp_path / name).write_text("{}")
    for path in (tmp_path, tmp_path / "card.json"):
        with pytest.raises(RunError, match=r"expected a trained explainer, got a classifier or a"):
            check_run(path)


def test_a_folder_of_neither_kind_is_told(tmp_path) -> None:
    with pytest.raises(RunError, match=r"expected a run folder, found no config\.json"):
        open_engine(tmp_path / "none")


def test_a_run_takes_its_own_classifier_only(tiny_run, tiny_card, tmp_path) -> None:
    other = tmp_path / "card.json"
    content = json.loads(tiny_card.read_text())
    content["input"]["mean"] = [0.4] * 3
    for part in tiny_card.parent.iterdir():
        shutil.copy(part, tmp_path / part.name)
    other.write_text(json.dumps(content))
    with pytest.raises(RunError, match="this explainer was trained for"):
        open_engine(tiny_run, other)


def test_a_run_that_does_not_look_trained_is_told(tiny_run: Path) -> None:
    lines: list[str] = []
    with redirect_warnings(lines.append):
        open_engine(tiny_run)
    assert lines == [load_doubts(tiny_run)] and "does not look trained: it had 2 steps" in lines[0]
    with redirect_warnings(lines.append):  # an explainer that is open has told it already
        open_engine(MaskExplainer.from_pretrained(tiny_run))
    assert len(lines) == 1


def test_an_export_needs_no_classifier_and_no_gpu(tiny_export) -> None:
    with pytest.raises(ConfigError, match="is an export, which predicts without it; leave it out"):
        open_engine(tiny_export, "SPEC")
    with pytest.raises(ConfigError, match="runs on the CPU here; use --device cpu, or the run"):
        open_engine(tiny_export, device="cuda")


def test_auto_leaves_an_export_on_the_cpu_and_an_opened_explainer_where_it_is(
    tiny_run, tiny_export, monkeypatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    explainer = MaskExplainer.from_pretrained(tiny_run)
    assert choose_engine_device(tiny_run, "auto") == "cuda"
    assert choose_engine_device(tiny_export, "auto") == "cpu"
    assert choose_engine_device(explainer, "auto") == "cpu"
    assert choose_engine_device(explainer, "cuda") == "cuda"


def test_another_graph_or_none_is_told(damaged) -> None:
    words = r"combined\.onnx: missing, damaged, or not the file that explainer\.json lists; export"
    shutil.copyfile(damaged / "explainer.onnx", damaged / "combined.onnx")
    with pytest.raises(RunError, match=words):
        open_engine(damaged)
    (damaged / "combined.onnx").unlink()
    with pytest.raises(RunError, match=words):
        open_engine(damaged)


def test_a_graph_for_many_classes_is_missed_when_it_is_needed(damaged) -> None:
    (damaged / "classes.onnx").unlink()
    engine, images = open_engine(damaged), torch.rand(1, 3, 32, 32)
    predicted = engine(images).targets
    _, result = engine.predict_logits(images)
    assert engine.compute_masks(result, predicted[None]).shape == (1, 1, 32, 32)
    with pytest.raises(
        RunError, match=r"classes\.onnx: missing, damaged, or not the file that expl"
    ):
        engine.compute_masks(result, 1 - predicted[None])


def test_an_export_of_another_kind_is_told(damaged) -> None:
    path = damaged / "explainer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "kind": "counterpart"}))
    with pytest.raises(RunError, match="expected an export of masks, got one of counterparts"):
        open_engine(damaged)
    path.write_text("{")
    with pytest.raises(RunError, match=r"explainer\.json: damaged; export the run again"):
        open_engine(damaged)


def test_an_export_that_does_not_predict_is_told(
    tiny_run, tiny_export, copy_graphs, tmp_path
) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    with copy_graphs(tiny_export):
        write_export(explainer, tmp_path, ExportSettings(combined=False))
    with pytest.raises(RunError, match=r"found no combined\.onnx; export again with --combined"):
        open_engine(tmp_path)
