from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from apercu import MaskExplainer
from apercu.deploy.export.tracing import open_session, run_session
from apercu.errors import RunError
from apercu.io import write_file

PLANTED = "planted:size=32,images=12,classes=3,difficulty=0"


def test_a_run_is_exported_and_its_figures_are_told(
    apercu, tiny_run, tiny_card, tiny_export, copy_graphs, tmp_path
) -> None:
    out = tmp_path / "exported"
    with copy_graphs(tiny_export):
        result = apercu(
            *("export", tiny_run, "--out", out, "--format", "torch,triton", "--images", PLANTED),
            *("--classifier", tiny_card),
        )
    assert (result.code, result.err) == (0, "")
    for name in ("explainer.onnx", "combined.onnx", "explainer.pt2"):
        assert f"{name}: at most " in result.out
        assert (out / name).is_file()
    assert (out / "triton" / "combined" / "1" / "model.onnx").is_file()
    assert not (out / "kserve.yaml").exists()
    assert result.out.splitlines()[-1] == f"exported: {out}"
    images = torch.rand(2, 3, 32, 32)
    actual = run_session(open_session(out / "explainer.onnx"), images, torch.tensor([1, 2]))["maps"]
    expected = MaskExplainer.from_pretrained(tiny_run).attribute(images, [1, 2])
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_precision_is_measured_on_the_images(
    apercu, tiny_run, tiny_card, tiny_export, copy_graphs, tmp_path
) -> None:
    words = ("export", tiny_run, "--out", tmp_path, "--precision", "int8-static", "--no-combined")
    images = ("--images", PLANTED, "--limit", "6", "--calibrate", PLANTED)
    with copy_graphs(tiny_export):
        result = apercu(*words, *images, "--classifier", tiny_card)
    assert (result.code, result.err) == (0, "")
    assert "explainer.onnx: int8-static against fp32 on 6 images: maps differ by " in result.out
    assert "saliency_metric: " in result.out and "localisation_error: " in result.out
    content = json.loads((tmp_path / "explainer.json").read_text())
    assert content["files"]["explainer"]["loss"]["n"] == 6 and "combined" not in content["files"]


def test_mistakes_are_one_line(apercu, tiny_run, tmp_path) -> None:
    out = tmp_path / "exported"

    def failed(*words: str | Path) -> str:
        result = apercu("export", *words, "--out", out)
        assert result.code == 2 and result.err.count("\n") == 1
        return result.err

    assert "found no config.json" in failed(tmp_path / "none")
    assert "did you mean triton?" in failed(tiny_run, "--format", "tritn")
    assert "expected one of fp32, fp16, int8, int8-static, got fp8" in failed(
        tiny_run, "--precision", "fp8"
    )
    assert "give --images" in failed(tiny_run, "--precision", "fp16")
    assert "give --classifier" in failed(tiny_run, "--combined")
    assert not out.exists()


def test_mistakes_of_the_format_web_are_one_line(apercu, tiny_run, tmp_path, monkeypatch) -> None:
    out, other = tmp_path / "site", tmp_path / "other.tgz"
    other.write_bytes(b"another package")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    for words, message in (
        (("web",), "npm is not installed; run `npm pack onnxruntime-web@1.30.0`"),
        (("web", "--runtime", other), "is not onnxruntime-web 1.30.0 as the registry of npm"),
        (("web", "--runtime", tmp_path / "none"), "cannot be read"),
        (("web,torch",), "format: web cannot be combined with other formats"),
        (("web", "--no-combined"), "web needs the combined graph"),
        (("onnx", "--runtime", other), "runtime: only the format web needs it"),
    ):
        result = apercu("export", tiny_run, "--out", out, "--format", *words)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert message in result.err
        assert not out.exists()


VERBS = {
    "explain": "explain EXPORT IMAGES --out out",
    "export": "export EXPORT --out out",
    "compare": "compare --classifier CARD --images IMAGES --explainer EXPORT --out out",
    "stress": "stress --classifier CARD --images IMAGES --explainer EXPORT --out out",
    "detect": "stress detect --classifier CARD --images IMAGES --explainer EXPORT --out out",
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_export_instead_of_a_run_is_told(
    apercu, verb: str, tiny_export, tiny_card, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"EXPORT": str(tiny_export), "CARD": str(tiny_card), "IMAGES": PLANTED}
    result = apercu(*(words.get(word, word) for word in VERBS[verb].split()))
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"{tiny_export}: expected a run folder, got an export; give the run that" in result.err
    assert "apercu_runtime, or masks with apercu serve, video and batch" in result.err
    assert not Path("out").exists()


def test_a_file_instead_of_a_run_is_told(tiny_run, tiny_export, tmp_path) -> None:
    for path, reason in (
        (tiny_export / "explainer.onnx", "got an export; give the run that it was made of"),
        (tiny_run / "weights.safetensors", f"got a file; give its folder, {tiny_run}"),
        (write_file(tmp_path / "photo.png", b""), "got a file; give a folder"),
    ):
        with pytest.raises(RunError) as error:
            MaskExplainer.from_pretrained(path)
        assert str(error.value).startswith(f"{path}: expected a run folder, {reason}")
