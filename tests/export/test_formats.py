"""The exported program, the Triton model repository, and the KServe manifest."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import yaml

from apercu.deploy.export import read_manifest
from apercu.deploy.export.tracing import open_program
from apercu.deploy.export.triton import format_model_config, make_service_name
from apercu.errors import ClassifierError

TYPES = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.INT64: "TYPE_INT64"}


def parsed(text: str) -> dict[str, Any]:
    """Text protobuf of the fields that a model's configuration uses, read literally."""
    tokens = re.findall(r'"[^"]*"|[\w.]+|[{}\[\],:]', text)
    assert "".join(tokens) == re.sub(r"\s+", "", text)

    def value() -> Any:
        token = tokens.pop(0)
        if token == "{":
            return message("}")
        if token == "[":
            results = []
            while tokens[0] != "]":
                results.append(value())
                if tokens[0] == ",":
                    tokens.pop(0)
            tokens.pop(0)
            return results
        return token[1:-1] if token.startswith('"') else int(token) if token.isdigit() else token

    def message(end: str | None) -> dict[str, Any]:
        results: dict[str, Any] = {}
        while tokens and tokens[0] != end:
            name = tokens.pop(0)
            assert re.fullmatch(r"[a-z_]+", name) and name not in results
            if tokens[0] == ":":
                tokens.pop(0)
            results[name] = value()
        if end is not None:
            tokens.pop(0)
        return results

    return message(None)


def described(value: Any) -> tuple[str, list[int]]:
    """Type and axes behind the batch of an input or output of an ONNX graph."""
    tensor = value.type.tensor_type
    return TYPES[tensor.elem_type], [axis.dim_value for axis in tensor.shape.dim[1:]]


@pytest.mark.parametrize("role", ["explainer", "combined"])
def test_the_configuration_tells_the_graph(light, role: str) -> None:
    model = light[1] / "triton" / role
    config = parsed((model / "config.pbtxt").read_text())
    graph = onnx.load(model / "1" / "model.onnx").graph
    assert (config["name"], config["backend"]) == (role, "onnxruntime")
    assert config["max_batch_size"] > 1
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": 2000}
    for kind, values in (("input", graph.input), ("output", graph.output)):
        assert [one["name"] for one in config[kind]] == [value.name for value in values]
        for one, value in zip(config[kind], values, strict=True):
            shape = one["reshape"]["shape"] if "reshape" in one else one["dims"]
            assert (one["data_type"], shape) == described(value)
            assert value.type.tensor_type.shape.dim[0].dim_param  # the batch is any
    assert config["input"][1]["dims"] == [1]


def test_the_repository_holds_the_exported_graphs(light) -> None:
    for role in ("explainer", "combined"):
        copy = light[1] / "triton" / role / "1" / "model.onnx"
        assert copy.read_bytes() == (light[1] / f"{role}.onnx").read_bytes()


def test_counterparts_are_outputs_too(pair) -> None:
    manifest = read_manifest(pair[1])
    config = parsed(format_model_config("explainer", manifest.files["explainer"], manifest))
    assert [one["name"] for one in config["output"]] == ["maps", "stable", "adversarial"]
    assert [one["dims"] for one in config["output"]] == [[32, 32], [3, 32, 32], [3, 32, 32]]
    assert not (pair[1] / "triton").exists()


def test_the_service_runs_triton_on_the_repository(light) -> None:
    result = yaml.safe_load((light[1] / "kserve.yaml").read_text())
    assert result["apiVersion"] == "serving.kserve.io/v1beta1"
    assert (result["kind"], result["metadata"]) == ("InferenceService", {"name": "light-one"})
    model = result["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "triton"}
    assert (model["protocolVersion"], model["storageUri"]) == (
        "v2",
        "pvc://models/light-one/triton",
    )
    assert model["resources"]["requests"] == {"cpu": "2", "memory": "2Gi"}


def test_names_are_such_as_kubernetes_takes() -> None:
    assert make_service_name("Mobile_Net v2.") == "mobile-net-v2"
    assert make_service_name("…") == "apercu"
    assert len(make_service_name("a-" * 60)) <= 63 and not make_service_name("a-" * 60).endswith(
        "-"
    )


def test_the_program_answers_as_pytorch_on_any_batch(light, images) -> None:
    explainer, folder = light
    answering = open_program(folder / "explainer.pt2", ("maps",))
    for batch, targets in ((3, [2, 0, 1]), (1, [1]), (3, [-1] * 3)):
        image = images[:batch]
        target = None if targets[0] < 0 else targets
        result = answering(image, torch.tensor(targets))["maps"]
        torch.testing.assert_close(result, explainer.attribute(image, target), atol=1e-5, rtol=0)


def test_the_program_tells_nothing_of_the_machine(light) -> None:
    with zipfile.ZipFile(light[1] / "explainer.pt2") as archive:
        texts = [archive.read(name) for name in archive.namelist() if name.endswith(".json")]
    root = str(Path(__file__).resolve().parents[2]).encode()
    assert texts and not any(root in text for text in texts)
    assert root not in (light[1] / "explainer.onnx").read_bytes()


def test_a_program_with_foreign_calls_is_not_opened(light, tmp_path) -> None:
    bad = tmp_path / "bad.pt2"
    with (
        zipfile.ZipFile(light[1] / "explainer.pt2") as archive,
        zipfile.ZipFile(bad, "w") as out,
    ):
        for name in archive.namelist():
            content = archive.read(name)
            if "/models/" in name and name.endswith(".json"):
                model = json.loads(content)
                model["graph_module"]["graph"]["nodes"][0]["target"] = "os.system"
                content = json.dumps(model).encode()
            out.writestr(name, content)
    with pytest.raises(ClassifierError, match=r"a call of os\.system"):
        open_program(bad, ("maps",))
