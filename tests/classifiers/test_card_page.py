"""The page about cards names every key, and each of its examples opens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import save_file
from torch import nn

import apercu
from apercu.classifiers import (
    ClassifierCard,
    InputSpec,
    make_card,
    open_classifier,
    save_classifier,
)
from apercu.classifiers.card import move_source, strip_source
from apercu.classifiers.draft import CardDraft
from apercu.classifiers.outputs import MEANINGS
from apercu.classifiers.sources.exported_program import ProgramOptions
from apercu.classifiers.sources.hf import HfOptions
from apercu.classifiers.sources.onnx import GraphOptions
from apercu.errors import ClassifierError, UntrustedError
from apercu.images.stretch import Stretch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "files" / "card.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", TEXT, re.M | re.S)]


def read_table(heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading."""
    section = TEXT.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("## Keys", ClassifierCard),
        ("### `input`", InputSpec),
        ("### `input.stretch`", Stretch),
    ],
)
def test_every_key_is_there_with_its_default(heading: str, model: type[BaseModel]) -> None:
    rows = {key.strip("`"): default for key, default, _ in read_table(heading)}
    assert list(rows) == list(model.model_fields)
    for key, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if field.is_required():
            assert rows[key] == ""
        elif default is not None:
            assert rows[key] == f"`{json.dumps(default)}`"


def test_every_output_and_every_option_is_there() -> None:
    assert [word.strip("`") for word, _ in read_table("### `output`")] == list(MEANINGS)
    options: dict[str, set[str]] = {}
    for source, key, _ in read_table("### `options`"):
        options.setdefault(source, set()).add(key.strip("`"))
    for source, model in (
        ("`….onnx`", GraphOptions),
        ("`….pt2`", ProgramOptions),
        ("`hf/…`, `clip/…`", HfOptions),
    ):
        assert options[source] == set(model.model_fields)


class Head(nn.Module):
    """A mean over the image, and a linear layer."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, count)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.mean((2, 3)))


def write_graph(path: Path, card: dict[str, Any], spec: InputSpec, count: int) -> None:
    """Write an ONNX file of one layer, as the card says."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    last = card.get("options", {}).get("layout") == "nhwc"
    sides = (*spec.size, spec.channels) if last else (spec.channels, *spec.size)
    name = card.get("output_name", "numbers")
    weight = np.linspace(-1, 1, spec.channels * count, dtype=np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["features"]),
        helper.make_node("Softmax" if card["output"] == "probabilities" else "Identity",
                         ["features"], [name]),
    ]  # fmt: skip
    outputs = [
        helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", count])
        for output in (("features", name) if "output_name" in card else (name,))
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *sides])],
        outputs,
        [
            numpy_helper.from_array(np.array([1, 2] if last else [2, 3]), "axes"),
            numpy_helper.from_array(weight.reshape(spec.channels, count), "weight"),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def write_transformers(folder: Path) -> None:
    """Write a small vision transformer as transformers does."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
        num_labels=3,
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def write_files(folder: Path, card: dict[str, Any]) -> None:
    """Write the files that a card names, with small networks in them."""
    source, classes = card["source"], card.get("classes", [])
    if isinstance(classes, str):
        (folder / classes).write_text("n01\twren\nn02\trobin\n")
        classes = ["wren", "robin"]
    spec = InputSpec.model_validate(card["input"]) if "input" in card else None
    if "weights" in card:
        save_file(build_network(source, len(classes)).state_dict(), folder / card["weights"])
    elif source.endswith(".onnx") and spec is not None:
        write_graph(folder / source, card, spec, len(classes))
    elif source.endswith(".pt2") and spec is not None:
        images = (torch.zeros(2, spec.channels, *spec.size),)
        batch = {"images": {0: torch.export.Dim("batch")}}
        head = Head(spec.channels, len(classes)).eval()
        torch.export.save(torch.export.export(head, images, dynamic_shapes=batch), folder / source)
    elif source.startswith("hf/"):
        write_transformers(folder / source.removeprefix("hf/"))
    elif source == "mynet:make":
        (folder / "mynet.py").write_text(
            "from torch import nn\n"
            "def make(width):\n"
            "    layers = nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
            "    return nn.Sequential(*layers, nn.Linear(width, 2))\n"
        )


def build_network(source: str, count: int) -> nn.Module:
    library, _, name = source.partition("/")
    if library == "timm":
        import timm

        network: nn.Module = timm.create_model(name, num_classes=count)
        return network
    from torchvision import models

    chosen: nn.Module = models.get_model(name, weights=None, num_classes=count)
    return chosen


@pytest.mark.parametrize("card", EXAMPLES, ids=lambda card: card["source"].partition("?")[0])
def test_every_example_opens(card: dict[str, Any], tmp_path: Path, monkeypatch) -> None:
    if card["source"].startswith("clip/"):
        ClassifierCard.model_validate(card)
        return  # opened with a model of its own in the tests of zero-shot classifiers
    write_files(tmp_path, card)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(card))
    monkeypatch.syspath_prepend(tmp_path)
    is_factory = card["source"] == "mynet:make"
    if is_factory:
        with pytest.raises(UntrustedError, match="mynet:make"):
            open_classifier(path)
    classifier = open_classifier(path, trust=is_factory)
    spec = classifier.network.input
    images = torch.rand(2, spec.channels, *spec.size)
    logits = classifier(images)
    names = card.get("classes")
    if card["source"].startswith("hf/"):
        assert len(classifier.classes) == 3
    elif card["output" if "output" in card else "source"] == "value":
        assert classifier.classes == ("lower age", "higher age")
    elif names == ["pneumonia"]:
        assert classifier.classes == ("not pneumonia", "pneumonia")
    else:
        assert classifier.classes == tuple(["wren", "robin"] if names == "names.txt" else names)
    assert logits.shape == (2, len(classifier.classes))


def test_a_size_may_be_one_number_and_a_mean_one_for_all() -> None:
    spec = InputSpec.model_validate({"size": 32, "mean": 0.5, "std": 0.25, "channels": 2})
    assert (spec.size, spec.mean, spec.std) == ((32, 32), (0.5, 0.5), (0.25, 0.25))


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"sourc": "x"}, "sourc is no key of a card; did you mean source? (the keys are source, "),
        ({"input": {"size": 8, "men": 1}}, "input.men is no key of a card; did you mean mean?"),
        (
            {"input": {"size": 8, "stretch": {"lows": [1]}}},
            "did you mean low? (the keys are curve, low, high, noise, sky)",
        ),
    ],
)
def test_an_unknown_key_lists_the_valid_ones(tmp_path, change: dict, clause: str) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"source": "a:b", **change}))
    with pytest.raises(ClassifierError) as caught:
        open_classifier(tmp_path / "card.json")
    assert clause in str(caught.value)


def write_head(folder: Path, name: str, card: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    write_files(folder, {"source": name, **card})
    return folder / name


def test_a_card_is_made_of_what_the_source_and_the_caller_say(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    card = {"input": {"size": 16}, "output": "logits", "classes": ["a", "b"]}
    write_head(tmp_path / "nets", "net.onnx", card)
    (tmp_path / "nets" / "names.txt").write_text("cat\ndog\n")
    draft = make_card("nets/net.onnx", mean=0.5, std=[0.5, 0.25, 0.5], classes="nets/names.txt")
    assert json.loads(draft.format_json()) == {
        "source": "nets/net.onnx",
        "input": {"channels": 3, "size": [16, 16], "mean": [0.5] * 3, "std": [0.5, 0.25, 0.5]},
        "output": "logits",
        "classes": "nets/names.txt",
    }
    assert draft.gaps == ("output is not known: the numbers are taken for logits of a softmax",)
    draft.write(tmp_path / "nets" / "card.json")
    assert draft.list_outside() == []
    assert draft.list_outside("elsewhere") == ["source", "classes"]
    classifier = open_classifier(tmp_path / "nets" / "card.json")
    assert classifier.classes == ("cat", "dog")
    assert classifier.network.input.mean == (0.5,) * 3
    again = apercu.make_card("nets/card.json", output="sigmoid").card
    assert (again.output, again.classes) == ("sigmoid", "nets/names.txt")


def test_a_card_of_a_graph_of_any_size_needs_a_size(tmp_path, monkeypatch) -> None:
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    write_head(tmp_path, "net.onnx", {"input": {"size": 16}, "output": "logits",
                                      "classes": ["a", "b"]})  # fmt: skip
    model = onnx.load("net.onnx")
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    onnx.save(model, "net.onnx")
    with pytest.raises(ClassifierError, match="size"):
        make_card("net.onnx")
    draft = make_card("net.onnx", size=[24, 32], output="sigmoid")
    assert draft.card.input == InputSpec(size=(24, 32))
    assert [gap.partition(":")[0] for gap in draft.gaps] == [
        "input.mean and input.std are not known",
        "classes are not known",
    ]


def test_values_that_do_not_fit_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_head(tmp_path, "net.onnx", {"input": {"size": 16}, "output": "logits",
                                      "classes": ["a", "b"]})  # fmt: skip
    for options, words in (
        ({"output": "logit"}, "did you mean sigmoid"),
        ({"mean": [0.5, 0.5]}, "expected 3 values"),
        ({"size": 17}, "the file takes"),
        ({"classes": ["a"]}, "names"),
    ):
        with pytest.raises(ClassifierError, match=words):
            make_card("net.onnx", **options)


@pytest.mark.parametrize(
    ("source", "moved"),
    [
        ("hf/h", "hf/../h"),
        ("clip/c?texts=c,clip", "clip/../c?texts=c,clip"),
        ("hf/./h", "hf/../h"),
        ("hf/~/h", "hf/../home/h"),
        ("n", "../n"),
    ],
)
def test_only_the_folder_in_a_source_is_moved(source, moved, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("h", "c", "n", "home/h"):
        (tmp_path / folder).mkdir(parents=True)
    draft = CardDraft(ClassifierCard(source=source), ())
    assert json.loads(draft.format_json("out"))["source"] == moved
    assert draft.list_outside("out") == ["source"]
    assert move_source(draft.card.source, "x") == moved.replace(strip_source(moved), "x", 1)


def test_a_card_is_made_of_the_folder_of_another_card_as_it_is_opened(tmp_path) -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    first = open_classifier(module, size=8, classes=["a", "b"])
    card = save_classifier(first, tmp_path / "saved")
    draft = make_card(card.parent, classes=["cat", "dog"])
    draft.write(card)
    assert open_classifier(card.parent).classes == ("cat", "dog")
    names = json.loads(card.with_name("sha256.json").read_text())
    card.with_name("sha256.json").write_text(json.dumps(dict.fromkeys(names, "0" * 64)))
    for spec in (card, card.parent):
        with pytest.raises(ClassifierError, match="damaged, or not the file that was saved here"):
            make_card(spec)
