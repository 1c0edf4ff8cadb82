"""ONNX Runtime computes what PyTorch does, for every explainer and preset, on any batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

import apercu
from apercu.classifiers import Classifier, ClassifierCard, InputSpec, SmallResNet, wrap_module
from apercu.classifiers.names import TOP_INDEX
from apercu.classifiers.outputs import Output, OutputName
from apercu.deploy.export import ExportSettings, write_export
from apercu.deploy.export.graphs import build_graph, build_predictor
from apercu.deploy.export.settings import ExportInputs
from apercu.deploy.export.tracing import open_session, run_session
from apercu.errors import ConfigError, RunError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.images.stretch import Stretch
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder

EVERY_TIME = {("mask", "light"), ("mask", "lean"), ("counterpart", "syce")}
PRESETS = [
    pytest.param(kind, preset, marks=() if (kind, preset) in EVERY_TIME else pytest.mark.slow)
    for kind, presets in (("mask", MASK_PRESETS), ("counterpart", COUNTERPART_PRESETS))
    for preset in presets.presets
]
"""The other presets are exported by the slow tests: each takes ten seconds."""
CLOSE = {"atol": 1e-4, "rtol": 0.0}


def run_file(path: Path, images: torch.Tensor, targets: Any) -> dict[str, torch.Tensor]:
    return run_session(open_session(path), images, torch.as_tensor(targets))


@pytest.mark.parametrize(("kind", "preset"), PRESETS)
def test_onnx_runtime_computes_what_pytorch_does(
    explainer_of: Callable[[str, str], Any], images, light, copy_graphs, tmp_path, kind, preset
) -> None:
    explainer = explainer_of(kind, preset)
    with copy_graphs(light[1]) if (kind, preset) == ("mask", "light") else nullcontext():
        write_export(explainer, tmp_path, ExportSettings(combined=False))
    path = tmp_path / "explainer.onnx"
    expected = explainer.attribute(images, [2, 0, 1])
    assert expected.std() > 1e-3  # else nothing is compared
    torch.testing.assert_close(run_file(path, images, [2, 0, 1])["maps"], expected, **CLOSE)
    top = explainer.attribute(images)
    torch.testing.assert_close(run_file(path, images, [TOP_INDEX] * 3)["maps"], top, **CLOSE)
    single = run_file(path, images[1:2], [TOP_INDEX])["maps"]
    torch.testing.assert_close(single, top[1:2], **CLOSE)
    if kind == "mask":
        many = run_file(tmp_path / "classes.onnx", images[:1], [2, TOP_INDEX, 0, 1])["maps"]
        row = torch.tensor([[2, int(explainer.predict_logits(images)[0].argmax()), 0, 1]])
        expected = explainer.attribute_classes(images[:1], row)[0]
        torch.testing.assert_close(many, expected, **CLOSE)
        torch.testing.assert_close(many[2:3], explainer.attribute(images[:1], 0), **CLOSE)
    many = run_file(path, images.repeat(3, 1, 1, 1), [TOP_INDEX] * 9)["maps"]
    torch.testing.assert_close(many, top.repeat(3, 1, 1), **CLOSE)


def test_enlarged_images_and_masks_that_close_for_absent_classes_are_exported(
    build_explainer, export_alone, classifier, images, tmp_path
) -> None:
    small = {"decoder": {"width": 16, "resolution": 2}}
    wanted = {"encoder_side": 48, "refinement": "object", "close_absent": True}
    explainer = build_explainer("mask", MASK_PRESETS.parse({**small, **wanted}), classifier)
    opened = explainer.attribute(images, [2, 0, 1])
    explainer.network.gate.z_threshold.fill_(0.0)
    expected = explainer.attribute(images, [2, 0, 1])
    assert not torch.allclose(expected, opened)
    plain = build_explainer("mask", MASK_PRESETS.parse(small), classifier)
    assert (plain.attribute(images, [2, 0, 1]) - expected).abs().max() > 0.1
    export_alone(explainer, tmp_path, roles=("explainer", "combined"))
    separate = run_file(tmp_path / "explainer.onnx", images, [2, 0, 1])["maps"]
    torch.testing.assert_close(separate, expected, **CLOSE)
    result = run_file(tmp_path / "combined.onnx", images, [TOP_INDEX] * 3)
    logits = classifier(images)
    torch.testing.assert_close(result["probabilities"], logits.softmax(1), **CLOSE)
    expected = explainer.attribute(images, logits.argmax(1))
    torch.testing.assert_close(result["maps"], expected, **CLOSE)


def test_counterparts_are_answered_too(pair, images) -> None:
    explainer, folder = pair
    result = run_file(folder / "explainer.onnx", images, [TOP_INDEX] * 3)
    expected = explainer.counterparts(images)
    torch.testing.assert_close(result["stable"], expected.stable, **CLOSE)
    torch.testing.assert_close(result["adversarial"], expected.adversarial, **CLOSE)
    assert (expected.adversarial - images).abs().amax() > 1e-2


def test_the_combined_graph_predicts_as_the_classifier_and_explains_what_it_sees(
    light, pair, classifier, images
) -> None:
    for explainer, folder in (light, pair):
        result = run_file(folder / "combined.onnx", images, [TOP_INDEX] * 3)
        logits = classifier(images)
        torch.testing.assert_close(result["probabilities"], logits.softmax(1), **CLOSE)
        if explainer.settings.explainer == "mask":
            expected = explainer.attribute(images, logits.argmax(1))
        else:
            expected = explainer.counterparts(images, logits=logits).maps
        torch.testing.assert_close(result["maps"], expected, **CLOSE)
        explicit = run_file(folder / "combined.onnx", images, [1, 1, 1])["maps"]
        if explainer.settings.explainer == "mask":
            torch.testing.assert_close(explicit, explainer.attribute(images, 1), **CLOSE)


def test_the_combined_graph_of_the_own_encoder_holds_the_backbone_once(light) -> None:
    import onnx

    def convolutions(name: str) -> int:
        nodes = onnx.load(light[1] / name).graph.node
        return sum(node.op_type == "Conv" for node in nodes)

    assert convolutions("combined.onnx") == convolutions("explainer.onnx")


def test_another_encoder_gets_the_prediction_from_the_given_classifier(
    small, classifier, images, copy_graphs, tmp_path
) -> None:
    explainer, lines = small[0], []
    with copy_graphs(small[1]):
        manifest = write_export(explainer, tmp_path / "auto", ExportSettings(), report=lines.append)
    assert set(manifest.files) == {"explainer", "classes"}
    assert any(
        "no combined graph: combined: the explainer has an encoder" in line for line in lines
    )
    with pytest.raises(ConfigError, match="give --classifier"):
        write_export(explainer, tmp_path / "must", ExportSettings(combined=True))
    with copy_graphs(small[1]):
        write_export(explainer, tmp_path / "both", ExportSettings(), ExportInputs(classifier))
    result = run_file(tmp_path / "both" / "combined.onnx", images, [TOP_INDEX] * 3)
    logits = classifier(images)
    torch.testing.assert_close(result["probabilities"], logits.softmax(1), **CLOSE)
    expected = explainer.attribute(images, logits.argmax(1))
    torch.testing.assert_close(result["maps"], expected, **CLOSE)


def test_another_classifier_is_refused(explainer_of, tmp_path) -> None:
    card = ClassifierCard(source="other", input=InputSpec(size=(32, 32)), classes=tuple("abc"))
    other = wrap_module(SmallResNet(3, 3, (32, 32), 4), card)
    with pytest.raises(RunError, match=r"trained for .* not for other"):
        write_export(explainer_of("mask", "small"), tmp_path, ExportSettings(), ExportInputs(other))


def test_a_latent_explainer_is_no_graph(explainer_of, tmp_path) -> None:
    with pytest.raises(ConfigError, match="a latent explainer searches a path"):
        write_export(explainer_of("latent", "light"), tmp_path, ExportSettings())


def test_a_backbone_answers_and_encodes_in_one_pass(classifier, images) -> None:
    encoder = GraphEncoder(classifier)
    with torch.no_grad():
        logits, features = EncoderWithHead(encoder)(images)
        expected = encoder(images)
    torch.testing.assert_close(logits, classifier(images))
    assert len(features) == len(expected)
    for one, other in zip(features, expected, strict=True):
        torch.testing.assert_close(one, other)


class _Twice(torch.nn.Module):
    """Its last layer is not what it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.head(self.body(images).mean((2, 3)))
        self.head(first.new_ones(1, 4))
        return first


def test_a_classifier_that_ends_elsewhere_gives_its_own_output() -> None:
    card = ClassifierCard(source="twice", input=InputSpec(size=(32, 32)))
    classifier = wrap_module(_Twice(), card)
    images = torch.rand(2, 3, 32, 32)
    logits, _ = EncoderWithHead(GraphEncoder(classifier))(images)
    torch.testing.assert_close(logits, classifier(images))


def test_a_black_box_cannot_be_joined(explainer_of, classifier) -> None:
    from dataclasses import replace

    from apercu.classifiers import BlackBox, Classifier

    counting = BlackBox(lambda images: classifier.module(images).detach())
    network = replace(classifier.network, forward=counting, differentiable=False)
    closed = Classifier(network, spec="closed")
    explainer = explainer_of("mask", "small")
    with pytest.raises(ConfigError, match="closed does not show its layers"):
        build_predictor(explainer.network, ClassifierInfo.from_classifier(closed), closed)


@pytest.mark.parametrize("output", get_args(OutputName))
def test_logits_that_are_traced_are_those_that_are_checked(classifier, output: OutputName) -> None:
    generator = torch.Generator().manual_seed(0)
    columns = 1 if output in ("probability", "value") else 3
    numbers = torch.rand(4, columns, generator=generator)
    if output == "probabilities":
        numbers = numbers / numbers.sum(1, keepdim=True)
    meaning = Output(name=output, columns=columns)
    network = replace(classifier.network, resolved_output=meaning)
    torch.testing.assert_close(
        network.read_logits_unchecked(numbers), network.read_logits(numbers, 4)
    )


def test_stretched_counts_are_refused(explainer_of, classifier, tmp_path) -> None:
    """The runtime would hand counts to a network that wants pixels."""
    stretch = Stretch(low=(-1.0,) * 3, high=(99.0,) * 3, noise=(1.0,) * 3)
    spec = classifier.network.input.model_copy(update={"stretch": stretch})
    explainer = explainer_of("mask", "light")
    explainer.classifier_info = ClassifierInfo.from_classifier(
        Classifier(replace(classifier.network, input=spec))
    )
    with pytest.raises(ConfigError, match="stretches raw counts"):
        write_export(explainer, tmp_path, ExportSettings())


def test_the_python_call_takes_explainers(
    tiny_run, tiny_card, tiny_export, copy_graphs, tmp_path
) -> None:
    explainer = apercu.load_explainer(tiny_run)
    lines: list[str] = []
    with copy_graphs(tiny_export):
        manifest = apercu.export(
            explainer, str(tmp_path), ["onnx"], classifier=tiny_card, say=lines.append
        )
    assert set(manifest.files) == {"explainer", "classes", "combined"}
    assert (tmp_path / "explainer.json").is_file()
    assert lines[0].startswith("explainer.onnx: at most ")
    with pytest.raises(ConfigError, match="format: expected one of onnx"):
        apercu.export(explainer, tmp_path, ["onx"])


@pytest.mark.parametrize("change", [{"filter": "jpeg"}, {"temperature": 2.0}])
def test_an_export_is_that_of_the_explained_classifier(
    change: dict[str, Any], explainer_of: Callable[..., Any], classifier: Classifier, tmp_path: Path
) -> None:
    """Also where the explainer holds the classifier, so that the graph needs no other one."""
    other = Classifier(replace(classifier.network, **change))
    with pytest.raises(RunError, match=f"was trained for .*, not for {other.spec}"):
        apercu.export(explainer_of("mask", "light"), tmp_path / "out", classifier=other)
    assert not (tmp_path / "out").exists()


def test_a_filter_without_a_graph_is_named(
    build_explainer: Callable[..., Any], classifier: Classifier
) -> None:
    module = classifier.module
    assert module is not None
    defended = apercu.open_classifier(module, size=32, mean=0.5, std=0.5, filter="jpeg:quality=60")
    match = (
        "^export: the filter jpeg:quality=60 has no ONNX form: Pillow compresses the images; "
        "explain with PyTorch, or give the classifier another filter$"
    )
    small = {"preset": "small", "decoder": {"width": 16}}
    own = MASK_PRESETS.parse({**small, "encoder": "own", "frozen": True})
    with pytest.raises(ConfigError, match=match):
        build_graph(build_explainer("mask", own, defended))
    explainer = build_explainer("mask", MASK_PRESETS.parse(small), defended)
    with pytest.raises(ConfigError, match=match):
        build_predictor(explainer.network, explainer.classifier_info, defended)
