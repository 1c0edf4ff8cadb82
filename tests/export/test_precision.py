"""Half precision and 8-bit integers: what they keep, and what they lose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from apercu.deploy.export import ExportSettings, read_manifest, write_export
from apercu.deploy.export.checks import compute_region_iou
from apercu.deploy.export.precision import convert_graph, convert_to_half, list_inputs
from apercu.deploy.export.settings import BATCH_SIZE, ExportInputs
from apercu.deploy.export.tracing import open_session, run_session
from apercu.errors import ConfigError
from apercu.images import open_images

PLANTED = "planted:size=32,images=12,classes=3,difficulty=0"


@pytest.fixture(scope="module")
def source() -> Any:
    return open_images(PLANTED)


@pytest.fixture(scope="module")
def lower(light, source, tmp_path_factory) -> dict[str, Path]:
    """The light explainer in every other precision, with the prediction."""
    results = {}
    for precision in ("fp16", "int8", "int8-static"):
        results[precision] = tmp_path_factory.mktemp(precision)
        settings = ExportSettings(precision=precision)
        calibration = source if precision == "int8-static" else None
        inputs = ExportInputs(images=source, calibration=calibration)
        write_export(light[0], results[precision], settings, inputs)
    return results


def _top_maps(folder: Path, images: torch.Tensor) -> torch.Tensor:
    targets = torch.full((len(images),), -1)
    return run_session(open_session(folder / "explainer.onnx"), images, targets)["maps"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-static"])
def test_the_loss_is_that_of_the_written_graphs(light, lower, source, precision: str) -> None:
    manifest = read_manifest(lower[precision])
    loss = manifest.files["explainer"].loss
    images = torch.stack([light[0].prepare(item.picture) for item in source])
    exact, converted = (
        torch.cat([_top_maps(folder, some) for some in images.split(BATCH_SIZE)])
        for folder in (light[1], lower[precision])
    )
    assert manifest.precision == precision and loss is not None
    assert loss.n == len(images)
    assert loss.mean_difference == pytest.approx((exact - converted).abs().mean().item(), abs=1e-5)
    assert loss.iou == pytest.approx(compute_region_iou(exact, converted).mean().item(), abs=1e-4)
    assert loss.mean_difference > 0
    assert set(loss.scores) == {"saliency_metric", "localisation_error"}
    for score in loss.scores.values():
        assert score.n == 6 and np.isfinite([score.exact, score.exported]).all()


@pytest.mark.slow
def test_precisions_lose_what_their_bits_are(light, lower) -> None:
    loss = {
        name: read_manifest(folder).files["explainer"].loss.mean_difference
        for name, folder in lower.items()
    }
    assert loss["fp16"] < 2e-3 < 0.2
    assert loss["fp16"] < loss["int8"] < 0.2
    assert loss["fp16"] < loss["int8-static"] < 0.2
    exact = (light[1] / "explainer.onnx").stat().st_size
    assert (lower["fp16"] / "explainer.onnx").stat().st_size < 0.7 * exact


@pytest.mark.slow
def test_every_graph_is_measured(light, lower, source) -> None:
    for folder in lower.values():
        files = read_manifest(folder).files
        assert files["explainer"].loss.agreement is None
        assert files["classes"].loss.n == files["combined"].loss.n == len(source)
        assert 0 < files["classes"].loss.mean_difference < 0.2
        assert not files["combined"].loss.scores
    images = torch.stack([light[0].prepare(item.picture) for item in source])
    exact, converted = (
        torch.cat([_tops(folder, some) for some in images.split(BATCH_SIZE)])
        for folder in (light[1], lower["int8-static"])
    )
    agreement = read_manifest(lower["int8-static"]).files["combined"].loss.agreement
    assert agreement == pytest.approx((exact == converted).float().mean().item())


def _tops(folder: Path, images: torch.Tensor) -> torch.Tensor:
    targets = torch.full((len(images),), -1)
    return run_session(open_session(folder / "combined.onnx"), images, targets)[
        "probabilities"
    ].argmax(1)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-static"])
def test_inputs_and_outputs_stay_as_they_are(light, lower, images, precision: str) -> None:
    for name in ("explainer.onnx", "combined.onnx"):
        exact, converted = (open_session(folder / name) for folder in (light[1], lower[precision]))
        for kind in ("get_inputs", "get_outputs"):
            one, other = (getattr(running, kind)() for running in (exact, converted))
            assert [(i.name, i.type, i.shape) for i in one] == [
                (i.name, i.type, i.shape) for i in other
            ]
        result = run_session(converted, images, torch.tensor([0, 1, 2]))["maps"]
        assert result.isfinite().all() and result.amin() >= 0 and result.amax() <= 1


@pytest.mark.slow
def test_weights_are_stored_in_the_bits_that_were_asked_for(lower) -> None:
    def kinds(precision: str) -> dict[int, int]:
        results: dict[int, int] = {}
        for weights in onnx.load(lower[precision] / "explainer.onnx").graph.initializer:
            count = int(np.prod(weights.dims))
            results[weights.data_type] = results.get(weights.data_type, 0) + count
        return results

    half = kinds("fp16")
    assert half[TensorProto.FLOAT16] > 20 * half.get(TensorProto.FLOAT, 0)
    static = kinds("int8-static")
    assert static[TensorProto.INT8] > 10 * static.get(TensorProto.FLOAT, 0)
    dynamic = kinds("int8")
    assert dynamic[TensorProto.UINT8] > 10 * dynamic.get(TensorProto.FLOAT, 0)


def two_layers() -> onnx.ModelProto:
    """Counts beyond 16 bits are normalised, weighed twice, and made log-odds of a probability."""
    weights = np.ones((1, 1, 1, 1), np.float32)
    nodes = [
        helper.make_node("Div", ["x", "largest"], ["small"], name="before"),
        helper.make_node("Conv", ["small", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="between"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="second"),
        helper.make_node("Add", ["c", "almost"], ["y"], name="after"),
    ]
    shape = ["n", 1, 2, 2]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(weights, "w1"),
            numpy_helper.from_array(weights, "w2"),
            numpy_helper.from_array(np.float32(1e6), "largest"),
            numpy_helper.from_array(np.float32(0.99999), "almost"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def test_only_what_lies_between_weights_is_halved(tmp_path) -> None:
    model = two_layers()
    convert_to_half(model)
    onnx.checker.check_model(model, full_check=True)
    kinds = {w.name: w.data_type for w in model.graph.initializer}
    assert kinds["w1_half"] == kinds["w2_half"] == TensorProto.FLOAT16
    assert kinds["largest"] == kinds["almost"] == TensorProto.FLOAT
    assert not {"w1", "w2"} & set(kinds)
    assert sum(node.op_type == "Cast" for node in model.graph.node) == 2
    onnx.save(model, tmp_path / "half.onnx")
    counts = np.full((1, 1, 2, 2), 5e5, np.float32)  # more than float16 can hold
    (result,) = open_session(tmp_path / "half.onnx").run(None, {"x": counts})
    np.testing.assert_allclose(result, 0.5 + 0.99999, atol=1e-6)


def test_weights_that_are_turned_first_are_halved_too(tmp_path) -> None:
    model = two_layers()
    conv = next(node for node in model.graph.node if node.name == "second")
    model.graph.node.insert(
        0, helper.make_node("Transpose", ["w2"], ["turned"], name="turn", perm=[1, 0, 2, 3])
    )
    conv.input[1] = "turned"
    model = onnx.shape_inference.infer_shapes(model)
    convert_to_half(model)
    kinds = {w.name: w.data_type for w in model.graph.initializer}
    assert kinds["w2_half"] == TensorProto.FLOAT16 and "w2" not in kinds
    onnx.save(model, tmp_path / "half.onnx")
    (result,) = open_session(tmp_path / "half.onnx").run(
        None, {"x": np.ones((1, 1, 2, 2), np.float32)}
    )
    np.testing.assert_allclose(result, 0.99999 + 1e-6, atol=1e-6)


def test_graphs_inside_of_a_node_stay_as_they_are(tmp_path) -> None:
    """What an `If` between two layers takes from outside is kept, in single precision."""
    model = two_layers()
    result = [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, ["n", 1, 2, 2])]
    add = helper.make_node("Add", ["b", "largest"], ["chosen"])
    branches = [helper.make_graph([add], name, [], result) for name in ("yes", "no")]
    choice = helper.make_node(
        "If", ["flag"], ["chosen"], name="if", then_branch=branches[0], else_branch=branches[1]
    )
    model.graph.node.insert(3, choice)
    model.graph.node[4].input[0] = "chosen"
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    model = onnx.shape_inference.infer_shapes(model)
    convert_to_half(model)
    onnx.checker.check_model(model, full_check=True)
    kinds = {w.name: w.data_type for w in model.graph.initializer}
    assert kinds["w1_half"] == kinds["w2_half"] == TensorProto.FLOAT16
    assert kinds["largest"] == TensorProto.FLOAT
    captured = list_inputs(next(node for node in model.graph.node if node.name == "if"))
    assert captured == {"flag", "b_single", "largest"}
    onnx.save(model, tmp_path / "half.onnx")
    (result,) = open_session(tmp_path / "half.onnx").run(
        None, {"x": np.full((1, 1, 2, 2), 3e6, np.float32)}
    )
    np.testing.assert_allclose(result, 1e6 + 3 + 0.99999)


def test_a_graph_that_ends_in_weights_cannot_be_halved(tmp_path) -> None:
    model = two_layers()
    del model.graph.node[-1]
    model.graph.node[-1].output[0] = "y"
    onnx.save(model, tmp_path / "exact.onnx")
    with pytest.raises(ConfigError, match=r"cannot convert this graph to fp16 \(y comes straight"):
        convert_graph(tmp_path / "exact.onnx", "fp16", tmp_path / "half.onnx", [])


def test_regions_that_are_empty_in_both_are_the_same() -> None:
    one = torch.tensor([[[0.1, 0.2]], [[0.9, 0.1]], [[0.9, 0.9]]])
    other = torch.tensor([[[0.0, 0.4]], [[0.1, 0.1]], [[0.9, 0.1]]])
    assert compute_region_iou(one, other).tolist() == [1, 0, 0.5]


def test_without_the_classifier_quality_is_not_measured(
    small, copy_graphs, source, tmp_path
) -> None:
    lines: list[str] = []
    settings = ExportSettings(precision="fp16", limit=4)
    with copy_graphs(small[1]):
        write_export(small[0], tmp_path, settings, ExportInputs(images=source), lines.append)
    loss = read_manifest(tmp_path).files["explainer"].loss
    assert loss is not None and (loss.n, loss.scores) == (4, {})
    assert "quality not measured: the metrics need the classifier; give --classifier" in lines
