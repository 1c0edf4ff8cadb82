"""Every kind of SPEC, opened from small files and functions of this test."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from apercu.classifiers import (
    ClassifierCard,
    InputSpec,
    SmallResNet,
    open_classifier,
    save_classifier,
    wrap_module,
)
from apercu.classifiers.sources import timm as timm_source
from apercu.errors import (
    ClassifierError,
    MissingExtraError,
    MissingModuleError,
    OutputError,
    UntrustedError,
)
from apercu.log import redirect_warnings
from apercu.weights import FORMER_FACTORIES

SIZE = (6, 5)
FACTORY = """
import torch
from torch import nn

def open_module(classes=3):
    torch.manual_seed(7)
    module = nn.Sequential(nn.Flatten(), nn.Linear(60, classes))
    module.input = {"channels": 2, "size": [6, 5]}
    return module

class Chance:
    input = {"channels": 2, "size": [6, 5]}
    classes = ("no", "yes")
    output = "probability"
    def __call__(self, images):
        return images.mean((1, 2, 3))

def closed(): return Chance()
def wrong_input():
    module = open_module()
    module.input = {"channels": 2, "sise": [6, 5]}
    return module
def silent(): return nn.Flatten()
def failing(): raise RuntimeError("no luck")
def talking(): raise RuntimeError("first\\n  second")
def number(): return 7
constant = 7
instance = open_module()
def predict(images): return images
"""


def _module() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(60, 3)).eval()


def _images(batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, 2, *SIZE, generator=torch.Generator().manual_seed(1))


def _export_pt2(module: nn.Module, path: Path, batch: Any = torch.export.Dim.AUTO) -> Path:
    is_fixed = isinstance(batch, int)
    shapes = None if is_fixed else ({0: batch},)
    program = torch.export.export(
        module, (_images(batch if is_fixed else 2),), dynamic_shapes=shapes
    )
    torch.export.save(program, path)
    return path


def _export_onnx(module: Any, path: Path, batch: Any = "n", kind: int = TensorProto.FLOAT) -> Path:
    weights = [
        numpy_helper.from_array(t.detach().numpy(), n) for n, t in module[1].named_parameters()
    ]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", kind, [batch, 2, *SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        weights,
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_nets.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)


@pytest.mark.parametrize("batch", [torch.export.Dim.AUTO, 1, 3])
def test_an_exported_program_gives_logits_and_gradients_of_its_network(
    tmp_path: Path, batch: Any
) -> None:
    module = _module()
    classifier = open_classifier(_export_pt2(module, tmp_path / "net.pt2", batch))
    images, same = _images().requires_grad_(), _images().requires_grad_()
    logits = classifier(images)
    torch.testing.assert_close(logits, module(same))
    logits[:, 2].sum().backward()
    module(same)[:, 2].sum().backward()
    torch.testing.assert_close(images.grad, same.grad)
    assert classifier.differentiable and not classifier.exposes_layers
    assert (classifier.channels, classifier.size) == (2, SIZE)


@pytest.mark.parametrize("batch", ["n", 1])
def test_onnx_gives_logits_without_gradients(tmp_path: Path, batch: Any) -> None:
    module = _module()
    classifier = open_classifier(_export_onnx(module, tmp_path / "net.onnx", batch))
    torch.testing.assert_close(classifier(_images()), module(_images()), atol=1e-5, rtol=0)
    assert not classifier.differentiable and classifier.module is None
    assert (classifier.channels, classifier.size) == (2, SIZE)


def test_a_card_adds_preprocessing_and_names_to_a_file(tmp_path: Path) -> None:
    _export_onnx(_module(), tmp_path / "net.onnx")
    (tmp_path / "names.txt").write_text("n0\tant\nn1\tbee\nn2\tcat\n")
    spec = {"channels": 2, "size": SIZE, "mean": [0.5, 0.25], "std": [0.1, 0.2]}
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"source": "net.onnx", "input": spec, "classes": "names.txt"}))
    classifier = open_classifier(card)
    mean, std = (torch.tensor(spec[key])[:, None, None] for key in ("mean", "std"))
    torch.testing.assert_close(classifier(_images()), _module()((_images() - mean) / std))
    assert classifier.classes == ("ant", "bee", "cat")
    assert classifier.index_of("n2") == 2
    bare = open_classifier(tmp_path / "net.onnx")
    assert classifier.fingerprint != bare.fingerprint


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"input": {"channels": 3, "size": SIZE}}, "card says 3 × 6 × 5, the file takes 2 × 6 × 5"),
        ({"classes": ["a", "b"]}, "has 3 classes, but 2 names"),
        ({"weights": "w.safetensors"}, "holds its own weights"),
        ({"output": "probability"}, "expected 1 × 1 numbers"),
    ],
)
def test_cards_that_do_not_fit_their_file(
    tmp_path: Path, content: dict[str, Any], match: str
) -> None:
    _export_onnx(_module(), tmp_path / "net.onnx")
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"source": "net.onnx", **content}))
    with pytest.raises(ClassifierError, match=match):
        open_classifier(card)


def test_onnx_files_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(ClassifierError, match="no such file"):
        open_classifier(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ClassifierError, match="not a usable ONNX file"):
        open_classifier(path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'apercu\[export\]'"):
        open_classifier(path)


@pytest.mark.usefixtures("factories")
def test_a_module_from_a_factory_shows_layers_and_takes_options_and_weights(tmp_path: Path) -> None:
    classifier = open_classifier("my_nets:open_module")
    assert classifier.exposes_layers and len(classifier.classes) == 3
    weights = {"1.weight": torch.ones(2, 60).half(), "1.bias": torch.zeros(2)}
    save_file(weights, tmp_path / "w.safetensors")
    card = {"source": "my_nets:open_module", "options": {"classes": 2}, "weights": "w.safetensors"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    loaded = open_classifier(tmp_path / "card.json", trust=True)
    assert loaded(_images()).dtype == torch.float32
    torch.testing.assert_close(loaded(_images())[:, 1], _images().sum((1, 2, 3)))
    assert loaded.fingerprint != classifier.fingerprint


@pytest.mark.usefixtures("factories")
def test_a_callable_from_a_factory_is_a_black_box() -> None:
    classifier = open_classifier("my_nets:closed")
    chance = _images().mean((1, 2, 3))
    torch.testing.assert_close(classifier.predict_probabilities(_images())[:, 1], chance)
    assert classifier.classes == ("no", "yes")
    assert not classifier.differentiable


@pytest.mark.usefixtures("factories")
def test_a_module_is_opened_as_what_a_factory_returns() -> None:
    classifier = open_classifier("my_nets:instance")
    expected = open_classifier("my_nets:open_module")(_images())
    torch.testing.assert_close(classifier(_images()), expected)
    module = sys.modules["my_nets"].instance
    assert module.training and next(module.parameters()).requires_grad


@pytest.mark.parametrize("batch", [torch.export.Dim.AUTO, 1])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64])
def test_an_exported_program_gets_the_numbers_that_it_takes(
    tmp_path: Path, dtype: torch.dtype, batch: Any
) -> None:
    class Converting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _module()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images.float() / (255 if dtype == torch.uint8 else 1))

    images = (_images(3 if batch != 1 else 1) * 255).round() / 255
    given = (images * 255 if dtype == torch.uint8 else images).to(dtype)
    shapes = None if batch == 1 else ({0: batch},)
    program = torch.export.export(Converting().eval(), (given,), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    classifier = open_classifier(tmp_path / "net.pt2")
    torch.testing.assert_close(classifier(images), _module()(images), atol=1e-3, rtol=0)
    assert classifier.differentiable == (dtype != torch.uint8)
    if dtype == torch.uint8:
        content = {"source": "net.pt2", "input": {"channels": 2, "size": SIZE, "mean": 0.5}}
        (tmp_path / "card.json").write_text(json.dumps(content))
        with pytest.raises(ClassifierError, match="takes bytes and normalises them itself"):
            open_classifier(tmp_path / "card.json")


def test_former_names_of_factories_open_with_the_same_fingerprint(tmp_path: Path) -> None:
    options = {"channels": 2, "classes": 3, "size": list(SIZE), "width": 4}
    spec = {"channels": 2, "size": list(SIZE)}
    for former, present in FORMER_FACTORIES.items():
        fingerprints = []
        for source in (former, present):
            path = tmp_path / "card.json"
            path.write_text(json.dumps({"source": source, "options": options, "input": spec}))
            torch.manual_seed(0)
            fingerprints.append(open_classifier(path).fingerprint)
        assert fingerprints[0] == fingerprints[1]


def test_the_fingerprint_of_a_former_name_is_that_of_older_versions(tmp_path: Path) -> None:
    options: dict[str, Any] = {"channels": 2, "classes": 3, "size": list(SIZE), "width": 4}
    network = SmallResNet(**options)
    weights = {key: torch.ones_like(value) for key, value in network.state_dict().items()}
    save_file(weights, tmp_path / "weights.safetensors")
    card = {
        "source": "apercu.classifiers.small:SmallResNet",
        "options": options,
        "weights": "weights.safetensors",
        "input": {"channels": 2, "size": list(SIZE)},
    }
    (tmp_path / "card.json").write_text(json.dumps(card))
    fingerprint = "2d75dbed5174c71240b901eb23a624f8685c72320401bca6e2746b981a829979"
    assert open_classifier(tmp_path / "card.json").fingerprint == fingerprint


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("my_nets:open_modul", "has no open_modul; did you mean open_module"),
        ("my_netz:open_module", "no module named my_netz, neither in this folder"),
        ("my_nets:silent", "does not say what its images are like"),
        ("my_nets:wrong_input", "sise is no key of a card; did you mean size"),
        ("my_nets:failing", "the factory fails: RuntimeError\\('no luck'\\)"),
        ("my_nets:talking", r"fails: RuntimeError\('first'\)$"),
        ("my_nets:number", "a callable from the factory, got int"),
        ("my_nets:constant", "constant cannot be called"),
        (
            "my_nets:predict",
            r"TypeError\(.*images.*; expected a function that .* returns the network",
        ),
        ("NET.ONNX", "write its ending in small letters"),
        ("timn/resnet18", "expected timm/NAME.* got 'timn/resnet18'; did you mean timm"),
        ("net.pth", "write a card with `source` and `weights`"),
        ("timm/resnet81", "timm has no such model; did you mean resnet"),
        ("torchvision/squeezenet1_2", "no such classifier; did you mean squeezenet1_1"),
        ("nowhere.pt2", "no such file"),
        ("nowhere.json", "no such classifier card"),
    ],
)
def test_specs_that_open_nothing(spec: str, match: str) -> None:
    with pytest.raises(ClassifierError, match=match):
        open_classifier(spec)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({}, "the folder holds no card.json; name a card"),
        ({"config.json": "{}"}, "no card.json; a training was begun here: .* --resume finishes it"),
        ({"config.json": "{}", "weights.safetensors": ""}, "it is the run of an explainer"),
        ({"config.json": '{"model_type": "vit"}'}, "is opened as hf/.*run$"),
    ],
)
def test_a_folder_without_a_card_says_what_it_is(
    tmp_path: Path, files: dict[str, str], match: str
) -> None:
    (tmp_path / "run").mkdir()
    for name, content in files.items():
        (tmp_path / "run" / name).write_text(content)
    with pytest.raises(ClassifierError, match=match):
        open_classifier(tmp_path / "run")
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(ClassifierError, match=r"got '.*photo\.jpg'; the file is of another kind"):
        open_classifier(tmp_path / "photo.jpg")


def _timm_card(folder: Path, **changes: Any) -> Path:
    import timm

    card = {
        "source": "timm/test_resnet",
        "weights": "w.safetensors",
        "input": {"channels": 1, "size": [32, 32]},
        "classes": ["a", "b"],
        **changes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model("test_resnet", num_classes=2, in_chans=1)
    save_file({k: v.half() for k, v in module.state_dict().items()}, folder / "w.safetensors")
    (folder / "card.json").write_text(json.dumps(card))
    return folder / "card.json"


def test_a_timm_card_builds_for_its_channels_and_classes(tmp_path: Path) -> None:
    classifier = open_classifier(_timm_card(tmp_path))
    again = open_classifier(_timm_card(tmp_path))
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(classifier(images), again(images))
    assert classifier.fingerprint == again.fingerprint
    assert classifier.module is not None and classifier.exposes_layers
    torch.testing.assert_close(classifier(images), classifier.module(images))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_classes": 5}, r"2 of another shape: .*fc\.weight \(2, 96\) instead of \(5, 96\)"),
        ({"in_chanz": 5}, r"in_chanz.*check its options"),
        ({"act_layer": "no such"}, "check its options"),
        ({"output_stride": 7}, "check its options"),
        ({"base_width": 0, "cardinality": 0}, "check its options"),
        ({"global_pool": "no such"}, "check its options"),
        ({"layers": 3}, "check its options"),
        ({"block": 3}, "check its options"),
        ({"norm_layer": 3}, "check its options"),
        ({"in_chans": "three"}, "check its options"),
    ],
)
def test_timm_options_that_do_not_fit(tmp_path: Path, options: Any, match: str) -> None:
    with pytest.raises(ClassifierError, match=match):
        open_classifier(_timm_card(tmp_path, options=options))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"groups": 0}),
        ("resnet18", {"weights": ["DEFAULT"]}),
        ("resnet18", {"weights": {"a": 1}}),
        ("resnet18", {"weights": False}),
        ("resnet18", {"norm_layer": "batch"}),
        ("resnet18", {"replace_stride_with_dilation": [True]}),
        ("resnet18", {"num_classes": "ten"}),
        ("resnet18", {"num_classes": -1}),
        ("vit_b_16", {"image_size": 17}),
        ("vit_b_16", {"image_size": 16, "patch_size": 0}),
        ("squeezenet1_0", {"version": "9"}),
        ("mobilenet_v2", {"inverted_residual_setting": []}),
        ("mobilenet_v2", {"inverted_residual_setting": [[1]]}),
        ("densenet121", {"block_config": 3}),
        ("densenet121", {"growth_rate": None}),
    ],
)
def test_torchvision_options_that_do_not_fit(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    content = {"source": f"torchvision/{name}", "options": {"weights": None, **options}}
    card = tmp_path / "card.json"
    card.write_text(json.dumps({**content, "input": {"size": [32, 32]}}))
    with (
        redirect_warnings(lambda line: None),
        pytest.raises(ClassifierError, match=r"check its options$|options\.weights: expected one"),
    ):
        open_classifier(card)


def test_layers_with_versions_are_loaded(tmp_path: Path) -> None:
    """MNASNet refuses weights without its version, which safetensors files do not hold."""
    from torchvision.models import mnasnet0_5

    module = mnasnet0_5(num_classes=3).eval()
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    content = {"source": "torchvision/mnasnet0_5", "weights": "weights.safetensors"}
    card = tmp_path / "card.json"
    card.write_text(
        json.dumps({**content, "input": {"size": [32, 32]}, "classes": ["a", "b", "c"]})
    )
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(open_classifier(card)(images), module(images))


def test_random_weights_of_our_factories_are_the_same_each_time(tmp_path: Path) -> None:
    options = {"channels": 2, "classes": 3, "size": [6, 5], "width": 4}
    content = {"source": "apercu.classifiers.small_resnet:SmallResNet", "options": options}
    card = tmp_path / "card.json"
    card.write_text(json.dumps({**content, "input": {"channels": 2, "size": [6, 5]}}))
    fingerprints, lines = set(), list[str]()
    for seed in (1, 2):
        torch.manual_seed(seed)
        with redirect_warnings(lines.append):
            fingerprints.add(open_classifier(card).fingerprint)
        before = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(torch.rand(1), before)  # the caller's generator is as it was
    assert len(fingerprints) == 1
    assert all("its weights are random, as its card names no `weights`" in line for line in lines)


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    card = _timm_card(tmp_path)
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(ClassifierError, match="no such file"):
        open_classifier(card)
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ClassifierError, match=r"expected a safetensors file .*save_file"):
        open_classifier(card)
    save_file({"odd": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ClassifierError, match=r"missing: conv1.*, …; 1 unexpected: odd"):
        open_classifier(card)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("timm/test_resnet", {"pretrained": False, "num_classes": 3}),
        ("torchvision/squeezenet1_1", {"weights": None, "num_classes": 3}),
        (
            "apercu.classifiers.small_resnet:SmallResNet",
            {"channels": 3, "classes": 3, "size": [32, 32], "width": 4},
        ),
    ],
)
def test_random_weights_are_told(tmp_path: Path, source: str, options: Any) -> None:
    card = tmp_path / "card.json"
    content = {"source": source, "options": options, "input": {"size": [32, 32]}}
    card.write_text(json.dumps(content))
    lines: list[str] = []
    with redirect_warnings(lines.append):
        first, second = open_classifier(card), open_classifier(card)
    assert "its weights are random, as" in lines[0]
    assert first.classes == ("class 0", "class 1", "class 2")
    if "small_resnet" not in source:
        assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize(
    ("source", "options", "match"),
    [
        ("timm/resnet18", {"num_classes": 5}, r"are for 1000 classes, so a head of 5 .* random"),
        (
            "torchvision/squeezenet1_1",
            {"weights": "V9"},
            "expected .*DEFAULT or null, got 'V9'",
        ),
    ],
)
def test_weights_that_do_not_exist(tmp_path: Path, source: str, options: Any, match: str) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"source": source, "options": options}))
    with pytest.raises(ClassifierError, match=match):
        open_classifier(tmp_path / "card.json")


def test_torchscript_files_are_told_from_weights(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("net/code/__torch__.py", "")
    with pytest.raises(ClassifierError, match=r"holds TorchScript: pass the module of torch\.jit"):
        open_classifier(tmp_path / "net.pt")


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apercu.classifiers.sources.timm.is_reachable", lambda url: False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    with pytest.raises(ClassifierError, match=r"cannot be downloaded.*card with `weights`"):
        open_classifier("timm/resnet18")

    def refuse(*args: Any, **settings: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(ClassifierError, match=r"downloaded \(no route\).*card with `weights`"):
        open_classifier("torchvision/squeezenet1_1")


def test_a_saved_classifier_is_the_same_when_opened(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"channels": 2, "classes": 3, "size": list(SIZE), "width": 4}
    card = ClassifierCard(
        source="apercu.classifiers.small_resnet:SmallResNet",
        options=options,
        input=InputSpec(channels=2, size=SIZE, mean=(0.5, 0.5)),
        classes=("a", "b", "c"),
    )
    classifier = wrap_module(SmallResNet(**options), card)
    card = save_classifier(classifier, tmp_path / "new" / "folder")
    again = open_classifier(card)
    assert open_classifier(card.parent).spec == again.spec == str(card)
    assert again.fingerprint == classifier.fingerprint
    assert again.classes == classifier.classes
    assert torch.equal(again(_images()), classifier(_images()))


def test_identifiers_survive_saving(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("n0\tant\nn1\tbee\n")
    classifier = open_classifier(_timm_card(tmp_path, classes="names.txt"))
    again = open_classifier(save_classifier(classifier, tmp_path / "copy"))
    assert (again.classes, again.identifiers) == (("ant", "bee"), ("n0", "n1"))


def test_a_black_box_cannot_be_saved(tmp_path: Path) -> None:
    classifier = open_classifier(_export_onnx(_module(), tmp_path / "net.onnx"))
    with pytest.raises(ClassifierError, match="a black box cannot be saved"):
        save_classifier(classifier, tmp_path / "copy")


def test_a_module_in_memory_needs_a_full_card() -> None:
    card = ClassifierCard(source="a.b:c")
    with pytest.raises(ClassifierError, match="needs a card with `input`"):
        wrap_module(_module(), card)
    card = ClassifierCard(source="a.b:c", input=InputSpec(size=SIZE), classes="names.txt")
    with pytest.raises(ClassifierError, match="`classes` as a list"):
        wrap_module(_module(), card)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    card = ClassifierCard(source="a.b:c", input=InputSpec(channels=2, size=SIZE))
    with pytest.raises(OutputError, match="file: cannot be written"):
        save_classifier(wrap_module(_module(), card), tmp_path / "file")


def test_moving_an_exported_program_keeps_its_logits(tmp_path: Path) -> None:
    classifier = open_classifier(_export_pt2(_module(), tmp_path / "net.pt2"))
    before = classifier(_images())
    classifier.network.forward.to(torch.device("cpu"))
    assert torch.equal(classifier(_images()), before)
    classifier.to("meta")
    assert classifier.device.type == "meta"
    assert classifier.network.forward(_images().to("meta")).shape == (4, 3)


def test_exported_and_onnx_bytes_are_their_identity(tmp_path: Path) -> None:
    module: Any = _module()
    first = open_classifier(_export_onnx(module, tmp_path / "a.onnx"))
    second = open_classifier(_export_onnx(module, tmp_path / "b.onnx"))
    module[1].bias.data[0] += np.float32(1e-6)
    third = open_classifier(_export_onnx(module, tmp_path / "c.onnx"))
    assert first.fingerprint == second.fingerprint != third.fingerprint


NEARBY = """
from torch import nn
from layers_nearby import WIDTH

def make(classes=2):
    module = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, classes))
    module.input = {"channels": 3, "size": 2}
    return module
"""


@pytest.fixture
def nearby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module that imports another one beside it."""
    for folder in (tmp_path, tmp_path / "nets"):
        folder.mkdir(exist_ok=True)
        (folder / f"{'net' if folder == tmp_path else 'far'}_nearby.py").write_text(NEARBY)
        (folder / "layers_nearby.py").write_text("WIDTH = 12\n")
    (tmp_path / "pack_nearby").mkdir()
    (tmp_path / "pack_nearby" / "__init__.py").write_text("")
    (tmp_path / "pack_nearby" / "inner.py").write_text(
        NEARBY.replace("from layers_nearby", "from .width")
    )
    (tmp_path / "pack_nearby" / "width.py").write_text("WIDTH = 12\n")
    for name in ("net_nearby", "far_nearby", "layers_nearby", "pack_nearby.inner", "pack_nearby"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("net_nearby:make", "net_nearby:make"),
        ("net_nearby.py:make", "net_nearby:make"),
        ("nets/far_nearby.py:make", "nets/far_nearby.py:make"),
        ("pack_nearby.inner:make", "pack_nearby.inner:make"),
        ("pack_nearby/inner.py:make", "pack_nearby/inner.py:make"),
    ],
)
def test_a_module_in_this_folder_is_found(nearby: Path, spec: str, name: str) -> None:
    before = sys.path[0]
    classifier = open_classifier(spec)
    assert (classifier.network.source, len(classifier.classes)) == (name, 2)
    assert sys.path[0] == before


def test_only_a_person_lets_a_module_in_this_folder_be_found(nearby: Path) -> None:
    (nearby / "card.json").write_text(json.dumps({"source": "net_nearby:make",
                                                  "options": {"classes": 3}}))  # fmt: skip
    with pytest.raises(UntrustedError, match="net_nearby:make"):
        open_classifier("card.json")
    assert "net_nearby" not in sys.modules
    assert len(open_classifier("card.json", trust=True).classes) == 3


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("nett_nearby:make", MissingModuleError, r"nett_nearby, neither in this folder \(/"),
        ("nets/nett.py:make", MissingModuleError, "no such file as /"),
        ("nets.nett:make", MissingModuleError, "no module named nets.nett"),
        ("net_nearby:mak", ClassifierError, "did you mean make"),
        ("needy_nearby:make", ClassifierError, "needs the module nowhere_nearby, which is not"),
        ("broken_nearby.py:make", ClassifierError, "the factory fails: SyntaxError"),
        ("json.py:loads", ClassifierError, "another module is called json"),
        ("net_nearby.py", ClassifierError, r"the module: net_nearby\.py:FUNCTION"),
    ],
)
def test_what_is_missing_is_named(
    nearby: Path, spec: str, error: type[ClassifierError], words: str
) -> None:
    (nearby / "needy_nearby.py").write_text("import nowhere_nearby\n")
    (nearby / "broken_nearby.py").write_text("def make(:\n")
    if spec.startswith("json"):
        (nearby / "sub").mkdir()
        (nearby / "sub" / "json.py").write_text("def loads(): pass\n")
        spec = f"sub/{spec}"
    with pytest.raises(error, match=words):
        open_classifier(spec)


def test_a_source_of_a_library_is_never_a_file(nearby: Path) -> None:
    (nearby / "timm").mkdir()
    (nearby / "timm" / "net.py").write_text("raise AssertionError('it was run')\n")
    with pytest.raises(ClassifierError, match="timm has no such model"):
        open_classifier("timm/net.py:make")


def test_cards_without_mean_keep_their_pixels_and_tell_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm_source, "_create_pretrained", timm_source.create_model)
    lines: list[str] = []

    def open_card(input: dict[str, Any]) -> InputSpec:
        card = tmp_path / "card.json"
        card.write_text(json.dumps({"source": "timm/test_resnet", "input": input}))
        lines.clear()
        with redirect_warnings(lines.append):
            return open_classifier(card).network.input

    assert open_card({"size": 32}) == InputSpec(size=(32, 32))
    assert "gets pixels in [0, 1]; its own weights expect mean [0.5, 0.5, 0.5] and std" in lines[0]
    assert open_card({"size": 32, "mean": 0, "std": 1}).mean == (0, 0, 0)
    assert not lines


def test_a_card_without_the_mean_of_its_factory_tells_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "centred_net.py").write_text(
        "import torch\n"
        "def make():\n"
        "    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))\n"
        "    net.input = {'size': 4, 'mean': 0.25, 'std': 0.5}\n"
        "    return net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    card, lines = tmp_path / "card.json", []
    card.write_text(json.dumps({"source": "centred_net:make", "input": {"size": 4}}))
    with redirect_warnings(lines.append):
        assert open_classifier(card, trust=True).network.input.mean is None
    assert "expect mean [0.25, 0.25, 0.25] and std [0.5, 0.5, 0.5]; set both" in lines[0]
