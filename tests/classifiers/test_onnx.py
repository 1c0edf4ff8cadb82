"""ONNX files as people export them: any batch, layout, precision and number of outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from apercu import open_classifier
from apercu.classifiers.card import ClassifierCard
from apercu.classifiers.sources.onnx import resolve_input
from apercu.errors import ClassifierError
from apercu.log import redirect_warnings

SIZE = (6, 5)
WEIGHT = np.random.default_rng(0).normal(size=(2 * 30, 3)).astype(np.float32)
KINDS = {
    np.float16: TensorProto.FLOAT16,
    np.float32: TensorProto.FLOAT,
    np.float64: TensorProto.DOUBLE,
    np.uint8: TensorProto.UINT8,
}


def _images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 2, *SIZE, generator=torch.Generator().manual_seed(1))


def _expected(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1) @ torch.from_numpy(WEIGHT)


def _export(
    path: Path,
    *,
    kind: Any = np.float32,
    batch: Any = "n",
    layout: str = "nchw",
    sides: tuple[Any, ...] = (2, *SIZE),
    softmax: bool = False,
    label: bool = False,
) -> Path:
    """Write a linear classifier of images of two channels."""
    nodes, name = [], "x"

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    shape = [batch, *sides]
    if layout == "nhwc":
        shape = [shape[0], shape[2], shape[3], shape[1]]
        name = add("Transpose", [name], "first", perm=[0, 3, 1, 2])
    name = add("Cast", [name], "float", to=TensorProto.FLOAT)
    if kind is np.uint8:
        name = add("Div", [name, "full"], "unit")
    name = add("Flatten", [name], "flat")
    name = add("MatMul", [name, "weight"], "product")
    if softmax:
        name = add("Softmax", [name], "chances", axis=1)
    outputs = [helper.make_tensor_value_info("scores", KINDS.get(kind, 1), [batch, 3])]
    if kind is np.uint8:
        outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])]
    to = TensorProto.FLOAT if kind is np.uint8 else KINDS[kind]
    name = add("Cast", [name], "scores", to=to)
    if label:
        add("ArgMax", [name], "label", axis=1, keepdims=0)
        outputs.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, [batch]))
    weights = [
        numpy_helper.from_array(WEIGHT, "weight"),
        numpy_helper.from_array(np.float32(255), "full"),
    ]
    graph = helper.make_graph(
        nodes, "linear", [helper.make_tensor_value_info("x", KINDS[kind], shape)], outputs, weights
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def _write_card(path: Path, **content: Any) -> Path:
    card = path.with_suffix(".json")
    card.write_text(json.dumps({"source": path.name, **content}))
    return card


@pytest.mark.parametrize("batch", ["n", 1, 4, 7])
def test_any_batch(tmp_path: Path, batch: Any) -> None:
    classifier = open_classifier(_export(tmp_path / "net.onnx", batch=batch))
    torch.testing.assert_close(classifier(_images()), _expected(_images()))
    torch.testing.assert_close(classifier(_images(1)), _expected(_images(1)))
    assert classifier(_images(8)).shape == (8, 3)


@pytest.mark.parametrize(
    ("kind", "tolerance"), [(np.float16, 0.05), (np.float64, 1e-5), (np.uint8, 0.1)]
)
def test_other_numbers(tmp_path: Path, kind: Any, tolerance: float) -> None:
    classifier = open_classifier(_export(tmp_path / "net.onnx", kind=kind))
    logits = classifier(_images())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, _expected(_images()), atol=tolerance, rtol=0)
    if kind is np.uint8:
        spec = {"channels": 2, "size": SIZE, "mean": [0.5, 0.5]}
        with pytest.raises(ClassifierError, match="takes bytes and normalises them itself"):
            open_classifier(_write_card(tmp_path / "net.onnx", input=spec))


def test_channels_last(tmp_path: Path) -> None:
    path = _export(tmp_path / "net.onnx", layout="nhwc")
    spec = {"channels": 2, "size": SIZE}
    for content in ({"input": spec}, {"options": {"layout": "nhwc"}}):
        classifier = open_classifier(_write_card(path, **content))
        assert (classifier.channels, classifier.size) == (2, SIZE)
        torch.testing.assert_close(classifier(_images()), _expected(_images()))
    with pytest.raises(ClassifierError, match=r"options: .*layot.*did you mean layout"):
        open_classifier(_write_card(path, options={"layot": "nhwc"}))
    with pytest.raises(ClassifierError, match="card says 2 × 6 × 5, the file takes 6 × 5 × 2"):
        open_classifier(_write_card(path, input=spec, options={"layout": "nchw"}))


def test_three_channels_last_are_recognised(tmp_path: Path) -> None:
    shape = ["n", 8, 9, 3]
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "m.onnx")
    classifier = open_classifier(tmp_path / "m.onnx")
    images = torch.rand(2, 3, 8, 9)
    torch.testing.assert_close(classifier(images), images.mean((2, 3)))


@pytest.mark.parametrize(
    ("sides", "layout", "channels"),
    [
        ((64, 64, 13), "nhwc", 13),
        ((13, 64, 64), "nchw", 13),
        ((64, 32, 32), "nchw", 64),
        ((12, 64, 48), "nchw", 12),
        ((2, 6, 5), "nchw", 2),
        ((48, 64, 13), "", 0),
        ((64, 64, 40), "", 0),
        ((64, 64, 80), "", 0),
        ((64, 64, 64), "", 0),
    ],
)
def test_many_channels_first_or_last(
    sides: tuple[int, int, int], layout: str, channels: int
) -> None:
    card = ClassifierCard(source="net.onnx")
    if layout:
        found = resolve_input([None, *sides], card)
        assert (found.layout, found.spec.channels) == (layout, channels)
        return
    with pytest.raises(ClassifierError, match=r"channels of .* or .*; set options\.layout to nchw"):
        resolve_input([None, *sides], card)
    assert resolve_input([None, *sides], card, "nhwc").spec.channels == sides[2]
    pytorch = resolve_input([None, *sides], ClassifierCard(source="net.pt2"))
    assert pytorch.spec.channels == sides[0]


def test_dynamic_sides_are_said_by_the_card(tmp_path: Path) -> None:
    path = _export(tmp_path / "net.onnx", sides=("c", "h", "w"))
    with pytest.raises(ClassifierError, match=r"images of any size; set input\.size"):
        open_classifier(path)
    classifier = open_classifier(_write_card(path, input={"channels": 2, "size": SIZE}))
    torch.testing.assert_close(classifier(_images()), _expected(_images()))


def test_a_softmax_inside_is_not_taken_twice(tmp_path: Path) -> None:
    path, lines = _export(tmp_path / "net.onnx", softmax=True), list[str]()
    with redirect_warnings(lines.append):
        classifier = open_classifier(path)
    expected = _expected(_images()).softmax(1)
    torch.testing.assert_close(classifier.predict_probabilities(_images()), expected)
    assert "probabilities" in lines[0] and len(lines) == 1
    said = open_classifier(_write_card(path, output="probabilities"))
    torch.testing.assert_close(said.predict_probabilities(_images()), expected)


def test_one_of_several_outputs(tmp_path: Path) -> None:
    path = _export(tmp_path / "net.onnx", label=True)
    torch.testing.assert_close(open_classifier(path)(_images()), _expected(_images()))
    named = open_classifier(_write_card(path, output_name="scores"))
    torch.testing.assert_close(named(_images()), _expected(_images()))
    with pytest.raises(ClassifierError, match="scorse"):
        open_classifier(_write_card(path, output_name="scorse"))


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["hen", "cat", "ant"], ("ant", "cat", "hen")),
        ([2, 0, 1], ("class 0", "class 1", "class 2")),
        ([5, 1, 3], ("1", "3", "5")),
    ],
)
@pytest.mark.parametrize("batch", ["n", 2])
def test_maps_from_classes_to_numbers(
    tmp_path: Path, keys: list[Any], names: tuple[str, ...], batch: Any
) -> None:
    """As scikit-learn's converter and cloud services export: the class, and a map per image."""
    path = _export(tmp_path / "net.onnx", label=True, batch=batch)
    model = onnx.load(path)
    is_text = isinstance(keys[0], str)
    labels = {"classlabels_strings" if is_text else "classlabels_int64s": keys}
    graph = model.graph
    node = helper.make_node("ZipMap", ["scores"], ["map"], domain="ai.onnx.ml", **labels)
    graph.node.append(node)
    number = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    kind = helper.make_map_type_proto(TensorProto.STRING if is_text else TensorProto.INT64, number)
    del graph.output[1]
    graph.output.append(helper.make_value_info("map", helper.make_sequence_type_proto(kind)))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    onnx.save(model, path)
    classifier = open_classifier(path)
    assert classifier.classes == names
    order = np.argsort(keys)
    torch.testing.assert_close(classifier(_images()), _expected(_images())[:, order])


def test_a_graph_that_gives_the_class_alone(tmp_path: Path) -> None:
    path = _export(tmp_path / "net.onnx", label=True)
    model = onnx.load(path)
    del model.graph.output[1]
    onnx.save(model, path)
    for output in ("logits", "sigmoid", "probability"):
        with pytest.raises(ClassifierError, match=r"one whole number per image.* argmax"):
            open_classifier(_write_card(path, output=output))


def test_a_graph_that_leaves_its_shape_open(tmp_path: Path) -> None:
    path = _export(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    with pytest.raises(ClassifierError, match=r"does not say the shape.*set input\.size and"):
        open_classifier(path)
    classifier = open_classifier(_write_card(path, input={"channels": 2, "size": SIZE}))
    torch.testing.assert_close(classifier(_images()), _expected(_images()))


def test_a_graph_that_fails_is_told_once_with_its_layout(tmp_path: Path, capfd: Any) -> None:
    path = _export(tmp_path / "net.onnx", layout="nhwc", sides=("c", "h", "w"))
    model = onnx.load(path)
    flat = next(node for node in model.graph.node if node.op_type == "Flatten")
    kernel = numpy_helper.from_array(np.zeros((2, 2, 1, 1), np.float32), "kernel")
    model.graph.initializer.append(kernel)
    model.graph.node.insert(2, helper.make_node("Conv", [flat.input[0], "kernel"], ["same"]))
    flat.input[0] = "same"
    onnx.save(model, path)
    with pytest.raises(ClassifierError, match=r"set options\.layout to nhwc in the card of"):
        open_classifier(_write_card(path, input={"channels": 2, "size": SIZE}))
    assert capfd.readouterr().err == ""


def test_weights_in_another_file_belong_to_the_fingerprint(tmp_path: Path) -> None:
    plain = _export(tmp_path / "plain.onnx")
    path = tmp_path / "net.onnx"
    model = onnx.load(plain)
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    first = open_classifier(path)
    torch.testing.assert_close(first(_images()), _expected(_images()))
    weights = bytearray((tmp_path / "net.data").read_bytes())
    weights[3] ^= 1
    (tmp_path / "net.data").write_bytes(weights)
    assert open_classifier(path).fingerprint != first.fingerprint
    (tmp_path / "net.data").unlink()
    with pytest.raises(ClassifierError, match=r"net\.data, which holds its weights, is missing"):
        open_classifier(path)


@pytest.mark.parametrize("link", [False, True])
def test_weights_stay_in_the_folder(tmp_path: Path, link: bool) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1000))
    path = _export(folder / "net.onnx")
    model = onnx.load(path)
    location = "link" if link else "../secret"
    if link:
        (folder / "link").symlink_to(tmp_path / "secret")
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ClassifierError, match="outside of its folder"):
        open_classifier(path)


def test_inputs_that_are_no_images(tmp_path: Path) -> None:
    path = _export(tmp_path / "net.onnx", sides=(60,))
    with pytest.raises(ClassifierError, match="expected an input batch × channels × height"):
        open_classifier(path)
