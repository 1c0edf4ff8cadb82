"""apercu-runtime computes what apercu does, with the same names and errors, without PyTorch."""

from __future__ import annotations

import io
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

import apercu
import apercu_runtime
from apercu import errors, read_picture
from apercu.classifiers import ClassNames
from apercu.deploy.export import ExportInputs, ExportSettings, read_manifest, write_export
from apercu.deploy.export.manifest import VERSION
from apercu.deploy.inference import open_engine
from apercu.verdicts import SignalWords, VerdictFormat
from apercu_runtime import Explainer, load_explainer
from apercu_runtime.manifest import _parse_guard
from apercu_runtime.names import ClassNames as RuntimeClassNames

HONEST = "planted:size=32,images=20,classes=3,seed=6"
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
        values = target.tolist() if isinstance(target, np.ndarray) else target
        expected = explainer.attribute(images, values)
        actual = runtime.attribute(images.numpy(), target)
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_a_picture_is_explained_as_apercu_does(exported, tmp_path) -> None:
    explainer, runtime = exported
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    images = explainer.prepare(read_picture(path))[None]
    for target, index in (("top", None), ("dots", 1), (2, 2)):
        expected = explainer.attribute(images, index)[0]
        for source in (path, str(path), path.read_bytes(), Image.open(path), pixels):
            np.testing.assert_allclose(runtime.explain(source, target), expected, atol=1e-3)


def test_an_explanation_is_that_of_apercu(light, classifier, tmp_path) -> None:
    explainer, runtime = light[0], load_explainer(light[1], threads=1)
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(3).integers(0, 256, (48, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    for target in (None, "dots", 2):
        actual = runtime.explain(path, target)
        expected = explainer.explain(path, target, classifier=classifier)
        np.testing.assert_allclose(actual.mask, expected.mask, atol=1e-3)
        np.testing.assert_array_equal(np.asarray(actual), actual.map)
        assert actual.target.index == expected.target.index
        assert actual.predicted.index == expected.predicted.index
        assert actual.probability == pytest.approx(expected.probability, abs=1e-3)
        assert actual.box == expected.box
        assert actual.runner_up.index == expected.runner_up.index
        assert actual.area == pytest.approx(expected.area, abs=1e-3)
        near = float(((expected.mask - expected.level).abs() < 1e-3).float().mean())
        assert actual.region_area == pytest.approx(expected.region_area, abs=near + 1e-6)
        difference = np.abs(np.subtract(actual.overlay(), expected.overlay(), dtype=float))
        assert difference.mean() < 2
        folder = actual.save(tmp_path / "out")
        np.testing.assert_array_equal(np.load(folder / "photo.map.npy"), actual.map)
        with Image.open(folder / "photo.overlay.png") as overlay:
            assert overlay.size == (90, 48)
        assert Image.open(io.BytesIO(actual._repr_png_())).size == (90, 48)
        assert repr(actual).startswith("Explanation('photo.png', target=")


def test_a_runtime_explainer_is_called_and_predicts(light, classifier, images) -> None:
    runtime = load_explainer(light[1])
    np.testing.assert_array_equal(runtime(images.numpy(), 1), runtime.attribute(images.numpy(), 1))
    expected = classifier(images).softmax(1)
    np.testing.assert_allclose(runtime.predict(images.numpy()), expected, atol=1e-5)
    separate = Explainer.from_onnx(light[1])
    np.testing.assert_allclose(separate.predict(images.numpy()), expected, atol=1e-5)


def test_an_export_without_prediction_says_so(copy, images) -> None:
    content = json.loads((copy / "explainer.json").read_text())
    del content["files"]["combined"]
    (copy / "explainer.json").write_text(json.dumps(content))
    runtime = load_explainer(copy)
    with pytest.raises(apercu_runtime.ConfigError, match="export again with --combined"):
        runtime.predict(images.numpy())
    explanation = runtime.explain(images[0].numpy())
    assert (explanation.target, explanation.predicted) == (None, None)
    assert runtime.explain(images[0].numpy(), "dots").target.name == "dots"


def test_a_counterpart_has_a_map_but_no_mask(pair, images) -> None:
    explanation = load_explainer(pair[1]).explain(images[0].numpy())
    assert (explanation.map.shape, explanation.box) == ((32, 32), None)
    with pytest.raises(apercu_runtime.ConfigError, match="counterpart explainer makes no masks"):
        _ = explanation.mask


def test_a_counterpart_is_of_another_class_than_the_predicted_one(pair, images) -> None:
    """Without a target it is the runner-up, as apercu says; the predicted class is refused."""
    explainer, runtime = pair[0], Explainer.from_onnx(pair[1], graph="combined")
    for image in images:
        expected = explainer.explain(image)
        explanation = runtime.explain(image.permute(1, 2, 0).numpy())
        assert explanation.target.name == expected.target.name
        assert explanation.probability == pytest.approx(expected.probability, abs=1e-5)
        np.testing.assert_allclose(explanation.map, expected.map, atol=1e-4)
        for explain in (explainer.explain, lambda image, target: runtime.explain(image, target)):
            kind, words = _catch_error(
                explain, image.permute(1, 2, 0).numpy(), expected.predicted.index
            )
            assert (kind, words) == (
                "TargetError",
                f"image: is predicted as {expected.predicted.name} already; choose another class",
            )


def test_many_classes_of_an_image_are_those_of_apercu(exported, images) -> None:
    explainer, runtime = exported
    for words in ([2], ["dots", 0], [0, 1, 2, 0, 1]):
        indices = torch.tensor(
            [[explainer.classifier_info.names.find_index(word) for word in words]] * 3
        )
        expected = explainer.attribute_classes(images, indices)
        actual = runtime.attribute_classes(images.numpy(), words)
        np.testing.assert_allclose(actual, expected, atol=1e-4)
    with pytest.raises(apercu_runtime.TargetError, match="expected at least one class"):
        runtime.attribute_classes(images.numpy(), [])
    with pytest.raises(apercu_runtime.TargetError, match="no class is called"):
        runtime.attribute_classes(images.numpy(), ["cat"])


def test_counterparts_have_no_graph_of_many_classes(pair, images) -> None:
    with pytest.raises(apercu_runtime.ConfigError, match="graph: expected one of explainer, comb"):
        Explainer.from_onnx(pair[1]).attribute_classes(images.numpy(), [0])


def test_the_combined_graph_predicts(light, classifier, images) -> None:
    runtime = Explainer.from_onnx(light[1], graph="combined")
    actual = runtime.outputs(images.numpy())
    np.testing.assert_allclose(actual["probabilities"], classifier(images).softmax(1), atol=1e-5)
    expected = light[0].attribute(images, classifier(images).argmax(1))
    np.testing.assert_allclose(actual["maps"], expected, atol=1e-4)


def test_counterparts_are_outputs(pair, images) -> None:
    actual = Explainer.from_onnx(pair[1]).outputs(images.numpy())
    np.testing.assert_allclose(actual["maps"], pair[0].attribute(images), atol=1e-4)
    change = np.abs(actual["adversarial"] - actual["stable"]).mean(1)
    np.testing.assert_allclose(actual["maps"], change, atol=1e-5)


def _catch_error(call: Any, *words: Any) -> tuple[str, str]:
    """Return the name and the text of the error that a call raises."""
    with pytest.raises((errors.ApercuError, apercu_runtime.ApercuError)) as error:
        call(*words)
    return type(error.value).__name__, str(error.value)


@pytest.mark.parametrize(
    "target", ["rigns", "", "7", "--5", "²", 3, -1, [0, 1], [0, 1, 9], [0.5, 1, 2], True, "-2", 1.5]
)
def test_wrong_targets_have_the_same_message(exported, images, target, shapes_unchecked) -> None:
    explainer, runtime = exported
    name, text = _catch_error(explainer.attribute, images, target)
    assert name == "TargetError"
    assert _catch_error(runtime.attribute, images.numpy(), target) == (name, text)


@pytest.mark.parametrize("word", ["mass", "Mass", "MASS", "crane", "Crane", "CRANE", "all", "top"])
def test_a_name_finds_the_same_class(word: str) -> None:
    names = ("Mass", "mass", "Crane, machine", "crane, bird", "heron")
    theirs, ours = ClassNames.of(list(names)), RuntimeClassNames(names, names)
    try:
        expected: Any = theirs.find_index(word)
    except errors.TargetError as error:
        with pytest.raises(apercu_runtime.TargetError) as caught:
            ours.find_index(word)
        assert str(caught.value) == str(error)
    else:
        assert ours.find_index(word) == expected


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
def test_wrong_images_have_the_same_message(exported, images, change) -> None:
    explainer, runtime = exported
    changed = change(images)
    name, text = _catch_error(explainer.attribute, changed)
    assert name == "ImageError"
    assert _catch_error(runtime.attribute, changed.numpy()) == (name, text)


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


def test_a_graph_that_cannot_run_is_refused(copy) -> None:
    (copy / "explainer.onnx").write_bytes(b"no graph")
    _edit_manifest(copy, sha=True)
    with pytest.raises(apercu_runtime.RunError, match=r"onnxruntime .* cannot run explainer"):
        Explainer.from_onnx(copy)


def _edit_manifest(folder: Path, *, sha: bool = False, **changes: Any) -> None:
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
def test_a_damaged_manifest_is_refused(copy, changes, message) -> None:
    _edit_manifest(copy, **changes)
    with pytest.raises(apercu_runtime.RunError, match=message):
        Explainer.from_onnx(copy)


@pytest.mark.parametrize("text", ["[]", "no JSON", "{}"])
def test_another_manifest_is_refused(copy, text) -> None:
    (copy / "explainer.json").write_text(text)
    with pytest.raises(apercu_runtime.RunError, match=r"explainer\.json"):
        Explainer.from_onnx(copy)


def test_wrong_arguments_are_refused(copy) -> None:
    with pytest.raises(apercu_runtime.RunError, match=r"found no explainer\.json; write one with"):
        Explainer.from_onnx(copy / "explainer.onnx")
    with pytest.raises(
        apercu_runtime.ConfigError, match=r"classes is used by attribute_classes\(\)"
    ):
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
def test_sizes_have_the_same_message(exported, tmp_path, shape) -> None:
    path = tmp_path / "a.png"
    Image.new("1", shape).save(path)
    name, text = _catch_error(read_picture, path)
    assert name == "ImageError"
    assert _catch_error(exported[1].explain, path) == (name, text)


def test_a_folder_without_export_and_a_missing_graph_are_named(copy, tmp_path, pair) -> None:
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


def test_repr_and_classes(exported, light) -> None:
    assert repr(exported[1]) == f"Explainer({light[1]}, 3 classes)"
    assert exported[1].classes == read_manifest(light[1]).classes
    assert torch.is_tensor(exported[0].attribute(torch.rand(1, 3, 32, 32)))


@pytest.fixture(scope="module")
def guard(light, classifier, honest_images, make_once) -> Any:
    """A guard that observes the explainer with random weights."""
    from apercu import fit_guard

    def fit(out: Path) -> None:
        fit_guard(classifier, honest_images, out, explainer=light[0], false_alarms=0.1)

    return apercu.load_guard(make_once("light guard", fit), classifier, light[0])


@pytest.fixture(scope="module")
def guarded(light, guard, make_once, copy_graphs) -> Path:
    """An export whose combined graph says whether its prediction may be believed."""

    def write(out: Path) -> None:
        graphs = out.parent / "untrusting graphs"
        graphs.mkdir()
        for role in ("explainer", "classes"):
            shutil.copy(light[1] / f"{role}.onnx", graphs)
        with copy_graphs(graphs):
            write_export(light[0], out, ExportSettings(), ExportInputs(guard=guard))

    return make_once("guarded export", write)


def test_the_trust_of_a_graph_is_that_of_the_guard(guarded, guard, images) -> None:
    runtime, engine = load_explainer(guarded), open_engine(guarded)
    honest = torch.stack([item.picture for item in apercu.open_images(HONEST)])
    for batch in (images, honest):
        expected = [trust.to_record() for trust in guard.check(batch)]
        for answers in (
            runtime.judge(batch.numpy()),
            [trust.to_record() for trust in engine(batch).trust],
            [trust.to_record() for trust in engine(batch, 1).trust],
        ):
            for answer, one in zip(answers, expected, strict=True):
                assert answer.keys() == one.keys()
                for name in ("tampered", "unknown", "confidence"):
                    assert answer[name] == pytest.approx(one[name], abs=1e-3)
                assert (answer["alarms"], answer["why"]) == (one["alarms"], one["why"])
    logits, features = engine.predict_logits(images)
    assert engine.judge(images, logits, features) == engine(images).trust
    assert engine.has_guard and engine.info.guard is not None


def test_an_explanation_of_the_runtime_holds_the_trust(guarded, light, tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    runtime = load_explainer(guarded)
    first = runtime.explain(pixels)
    assert first.trust == runtime.explain(pixels, target=1).trust
    assert first.trust == runtime.judge(runtime.prepare(pixels)[None])[0]
    older = load_explainer(light[1])
    assert older.explain(pixels).trust is None
    with pytest.raises(apercu_runtime.ConfigError, match="has no guard in its graph"):
        older.judge(older.prepare(pixels)[None])
    assert open_engine(light[1]).has_guard is False


def test_the_runtime_says_what_it_cannot_judge() -> None:
    words = SignalWords(name="noise", question="tampered", phrase="its noise is odd")
    format = VerdictFormat(signals=(words,), false_alarms=0.05, calibrated=False)
    own = _parse_guard(format.model_dump(mode="json"))
    for row in (
        [0.2, 0.1, 0.5, np.nan],
        [0.2, np.inf, 0.5, 1],
        [0.99, 0.1, 0.5, 2],
        [0.95, 0, 0, 0],
    ):
        values = np.array(row, np.float32)
        assert own.read(values) == format.read(values.tolist()).to_record()


def test_a_guard_of_an_export_fits_its_explainer(
    light, small, guard, guarded_card, classifier, tmp_path
) -> None:
    for inputs, settings, message in (
        (
            (small[0], ExportInputs(classifier, guard=guard)),
            {},
            "was fitted with another explainer",
        ),
        ((light[0], ExportInputs(guard=guard)), {"combined": False}, "only the combined graph"),
        ((light[0], ExportInputs(guard=guard)), {"formats": ("web",)}, "shows no guard"),
    ):
        with pytest.raises(errors.InputError, match=message):
            write_export(inputs[0], tmp_path / "out", ExportSettings(**settings), inputs[1])
        assert not (tmp_path / "out" / "explainer.json").exists()
    with pytest.raises(errors.RunError, match="was fitted without an explainer"):
        apercu.export(light[0], tmp_path / "out", classifier=guarded_card)


def test_a_damaged_guard_of_a_manifest_is_refused(copy: Path) -> None:
    path = copy / "explainer.json"
    content = json.loads(path.read_text())
    for wrong in ({}, {"signals": [{"question": "odd", "phrase": ""}], "false_alarms": 0.1}, 3):
        path.write_text(json.dumps({**content, "guard": wrong}))
        with pytest.raises(apercu_runtime.RunError, match="damaged"):
            load_explainer(copy)
        with pytest.raises(errors.RunError, match="damaged"):
            open_engine(copy)
