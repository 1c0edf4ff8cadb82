"""apercu-runtime answers as apercu does, with the same words and errors, and without PyTorch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import apercu_runtime
from apercu import errors, read_picture
from apercu.deploy.export import read_manifest
from apercu.deploy.export.manifest import VERSION
from apercu_runtime import Explainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def exported(light: tuple[Any, Path]) -> tuple[Any, Explainer]:
    """The trained explainer, and what the runtime opens of its export."""
    return light[0], Explainer.from_onnx(light[1], threads=1)


@pytest.fixture
def copy(light: tuple[Any, Path], tmp_path: Path) -> Path:
    """An export that may be damaged."""
    folder = tmp_path / "exported"
    shutil.copytree(light[1], folder)
    return folder


def test_maps_are_those_of_apercu(exported, images) -> None:
    explainer, runtime = exported
    for target in (None, 1, "dots", "BANDS", [0, 1, 2], ["rings", 0, "1"], np.array([2, 2, 0])):
        shown = target.tolist() if isinstance(target, np.ndarray) else target
        expected = explainer.attribute(images, shown)
        found = runtime.attribute(images.numpy(), target)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_picture_is_explained_as_apercu_does(exported, tmp_path) -> None:
    explainer, runtime = exported
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    images = explainer.prepare(read_picture(path))[None]
    for target, asked in (("top", None), ("dots", 1), (2, 2)):
        expected = explainer.attribute(images, asked)[0]
        for source in (path, str(path), path.read_bytes(), Image.open(path), pixels):
            np.testing.assert_allclose(runtime.explain(source, target), expected, atol=1e-3)


def test_many_classes_of_an_image_are_those_of_apercu(exported, images) -> None:
    explainer, runtime = exported
    for words in ([2], ["dots", 0], [0, 1, 2, 0, 1]):
        asked = torch.tensor([[explainer.passport.names.index_of(word) for word in words]] * 3)
        expected = explainer.attribute_classes(images, asked)
        found = runtime.attribute_classes(images.numpy(), words)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(apercu_runtime.TargetError, match="expected at least one class"):
        runtime.attribute_classes(images.numpy(), [])
    with pytest.raises(apercu_runtime.TargetError, match="no class is called"):
        runtime.attribute_classes(images.numpy(), ["cat"])


def test_counterparts_have_no_graph_of_many_classes(pair, images) -> None:
    with pytest.raises(apercu_runtime.ConfigError, match="graph: expected one of explainer, comb"):
        Explainer.from_onnx(pair[1]).attribute_classes(images.numpy(), [0])


def test_the_combined_graph_predicts(light, classifier, images) -> None:
    runtime = Explainer.from_onnx(light[1], graph="combined")
    found = runtime.outputs(images.numpy())
    np.testing.assert_allclose(found["probabilities"], classifier(images).softmax(1), atol=1e-5)
    expected = light[0].attribute(images, classifier(images).argmax(1))
    np.testing.assert_allclose(found["maps"], expected, atol=1e-4)


def test_counterparts_are_outputs(pair, images) -> None:
    found = Explainer.from_onnx(pair[1]).outputs(images.numpy())
    np.testing.assert_allclose(found["maps"], pair[0].attribute(images), atol=1e-4)
    change = np.abs(found["adversarial"] - found["stable"]).mean(1)
    np.testing.assert_allclose(found["maps"], change, atol=1e-5)


def _said(call: Any, *words: Any) -> tuple[str, str]:
    """Name and text of the error that a call ends with."""
    with pytest.raises((errors.ApercuError, apercu_runtime.ApercuError)) as error:
        call(*words)
    return type(error.value).__name__, str(error.value)


@pytest.mark.parametrize(
    "target", ["rigns", "", "7", "--5", "²", 3, -1, [0, 1], [0, 1, 9], [0.5, 1, 2], True, "-2", 1.5]
)
def test_wrong_targets_are_told_in_the_same_words(
    exported, images, target, shapes_unchecked
) -> None:
    explainer, runtime = exported
    name, text = _said(explainer.attribute, images, target)
    assert name == "TargetError"
    assert _said(runtime.attribute, images.numpy(), target) == (name, text)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images[:, :1],
        lambda images: images[:, :, :30],
        lambda images: images * 255,
        lambda images: images - 1,
        lambda images: images * float("nan"),
    ],
)
def test_wrong_images_are_told_in_the_same_words(exported, images, change) -> None:
    explainer, runtime = exported
    changed = change(images)
    name, text = _said(explainer.attribute, changed)
    assert name == "ImageError"
    assert _said(runtime.attribute, changed.numpy()) == (name, text)


def test_no_batch_and_no_images_are_refused(exported, images) -> None:
    for wrong in (images[0], images[:0]):
        with pytest.raises(apercu_runtime.ImageError, match="expected batch × 3 × 32 × 32, got"):
            exported[1].attribute(wrong.numpy())


def test_the_error_tree_is_part_of_apercus() -> None:
    for name in (
        "ApercuError",
        "InputError",
        "ImageError",
        "TargetError",
        "ConfigError",
        "RunError",
    ):
        ours, theirs = getattr(apercu_runtime, name), getattr(errors, name)
        assert (ours.exit_code, ours.status) == (theirs.exit_code, theirs.status)
        assert [base.__name__ for base in ours.__mro__] == [
            base.__name__ for base in theirs.__mro__
        ]


def test_versions_go_together() -> None:
    import apercu
    from apercu_runtime.manifest import VERSION as READ

    assert (apercu_runtime.__version__, READ) == (apercu.__version__, VERSION)


def test_another_graph_than_the_exported_is_refused(copy) -> None:
    graph = copy / "explainer.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(apercu_runtime.RunError, match=r"explainer\.onnx: damaged, or not"):
        Explainer.from_onnx(copy)
    Explainer.from_onnx(copy, graph="combined")
    graph.unlink()
    with pytest.raises(apercu_runtime.RunError, match="cannot be read"):
        Explainer.from_onnx(copy)


def test_a_graph_that_no_runtime_runs_is_one_line(copy) -> None:
    (copy / "explainer.onnx").write_bytes(b"no graph")
    _edit(copy, sha=True)
    with pytest.raises(apercu_runtime.RunError, match=r"onnxruntime .* cannot run explainer"):
        Explainer.from_onnx(copy)


def _edit(folder: Path, *, sha: bool = False, **changes: Any) -> None:
    import hashlib

    path = folder / "explainer.json"
    content = json.loads(path.read_text()) | changes
    if sha:
        digest = hashlib.sha256((folder / "explainer.onnx").read_bytes()).hexdigest()
        content["files"]["explainer"]["sha256"] = digest
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "expected version 1, got 2; install the apercu-runtime of"),
        ({"classes": None}, "damaged"),
        ({"classes": ["one"]}, "classes and identifiers differ in number"),
        ({"input": {"channels": 3}}, "damaged"),
        ({"files": {"explainer": {"file": "../x.onnx", "sha256": ""}}}, "leads out of the folder"),
    ],
)
def test_a_damaged_manifest_is_one_line(copy, changes, message) -> None:
    _edit(copy, **changes)
    with pytest.raises(apercu_runtime.RunError, match=message):
        Explainer.from_onnx(copy)


@pytest.mark.parametrize("text", ["[]", "no JSON", "{}"])
def test_a_manifest_of_something_else_is_one_line(copy, text) -> None:
    (copy / "explainer.json").write_text(text)
    with pytest.raises(apercu_runtime.RunError, match=r"explainer\.json"):
        Explainer.from_onnx(copy)


def test_what_opens_no_explainer_is_one_line(copy) -> None:
    with pytest.raises(apercu_runtime.RunError, match=r"found no explainer\.json; write one with"):
        Explainer.from_onnx(copy / "explainer.onnx")
    with pytest.raises(apercu_runtime.ConfigError, match=r"classes answers attribute_classes\(\)"):
        Explainer.from_onnx(copy, graph="classes")
    for threads in (0, -1):
        with pytest.raises(apercu_runtime.ConfigError, match=f"at least 1, got {threads}"):
            Explainer.from_onnx(copy, threads=threads)


@pytest.mark.parametrize("targets", ["rings", 3, None])
def test_many_classes_are_a_list(exported, images, targets) -> None:
    with pytest.raises(apercu_runtime.TargetError, match="expected a list of classes, got"):
        exported[1].attribute_classes(images.numpy(), targets)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (20_000, 6_000), (20_000, 10_000)])
def test_sizes_are_refused_in_the_same_words(exported, tmp_path, shape) -> None:
    path = tmp_path / "a.png"
    Image.new("1", shape).save(path)
    name, text = _said(read_picture, path)
    assert name == "ImageError"
    assert _said(exported[1].explain, path) == (name, text)


def test_a_folder_without_export_and_a_missing_graph_are_told(copy, tmp_path, pair) -> None:
    with pytest.raises(apercu_runtime.RunError, match=r"found no explainer\.json; write one with"):
        Explainer.from_onnx(tmp_path)
    for graph in ("combind", "program"):
        with pytest.raises(apercu_runtime.ConfigError, match="expected one of explainer, classes"):
            Explainer.from_onnx(copy, graph=graph)


def test_it_runs_without_pytorch(light, tmp_path) -> None:
    Image.new("RGB", (40, 60), "red").save(tmp_path / "red.png")
    code = (
        "import sys\n"
        "from apercu_runtime import Explainer\n"
        f"map = Explainer.from_onnx({str(light[1])!r}).explain({str(tmp_path / 'red.png')!r})\n"
        "heavy = {'torch', 'apercu', 'onnx', 'pydantic'} & set(sys.modules)\n"
        "print(map.shape, sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "runtime"), "PATH": ""},
    )
    assert (done.stdout, done.stderr) == ("(32, 32) []\n", "")


def test_it_says_what_it_is(exported, light) -> None:
    assert repr(exported[1]) == f"Explainer({light[1]}, 3 classes)"
    assert exported[1].classes == read_manifest(light[1]).classes
    assert torch.is_tensor(exported[0].attribute(torch.rand(1, 3, 32, 32)))
