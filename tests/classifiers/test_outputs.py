"""What the numbers of a network mean: conversion, decision, names, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

import apercu
from apercu.classifiers import Classifier, ClassNames, open_classifier, save_classifier
from apercu.classifiers.card import InputSpec, read_card
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS, DecidedLogits, find_decision
from apercu.classifiers.network import Network, list_tensors
from apercu.classifiers.output_checks import resolve_output
from apercu.classifiers.outputs import Output, OutputName, check_numbers
from apercu.errors import ClassifierError, TargetError
from apercu.log import redirect_warnings

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A linear layer, whose numbers a function wraps into whatever a network returns."""

    def __init__(self, classes: int, wrap: Callable[[Tensor], Any] = lambda z: z) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(classes)
            self.head = nn.Linear(3 * 8 * 8, classes)
        self.wrap = wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.head(images.flatten(1)) * 4)


class SigmoidByFunction(nn.Module):
    """A sigmoid that is no layer."""

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers.sigmoid()


def opened(
    columns: int,
    output: str | None = None,
    wrap: Callable[[Tensor], Any] = lambda z: z,
    **more: Any,
) -> Classifier:
    return open_classifier(Net(columns, wrap), size=8, output=output, **more)


def numbers(classes: int) -> Tensor:
    return Net(classes)(IMAGES).detach()


def test_several_classes_have_probabilities_of_their_own() -> None:
    classifier = opened(3, "sigmoid", classes=["dots", "rings", "cross"])
    logits = classifier(IMAGES)
    torch.testing.assert_close(logits, numbers(3))
    torch.testing.assert_close(classifier.predict_probabilities(IMAGES), numbers(3).sigmoid())
    assert classifier.decision is EACH_CLASS
    assert torch.equal(classifier.decision.find_predicted(logits), numbers(3) >= 0)


def test_one_logit_is_a_class_and_its_absence() -> None:
    classifier = opened(1, "sigmoid", classes=["dots"])
    probability = numbers(1).sigmoid()[:, 0]
    assert classifier.classes == ("not dots", "dots")
    torch.testing.assert_close(
        classifier.predict_probabilities(IMAGES), torch.stack([1 - probability, probability], 1)
    )
    assert opened(1, "sigmoid").classes == ("not class", "class")
    assert opened(1, "sigmoid", classes=["dots", "cross"]).classes == ("dots", "cross")


def test_a_flat_logit_is_one_logit() -> None:
    flat = opened(1, "sigmoid", lambda z: z[:, 0])
    torch.testing.assert_close(flat(IMAGES), opened(1, "sigmoid")(IMAGES))
    squeezed = opened(1, "sigmoid", lambda z: z.squeeze())
    torch.testing.assert_close(squeezed(IMAGES[:1]), flat(IMAGES[:1]))


def test_a_regression_has_the_targets_lower_and_higher() -> None:
    classifier = opened(1, "value", value_range=(10, 30), classes=["age"])
    value = numbers(1)[:, 0]
    logits = classifier(IMAGES)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], (value - 20) / 5)
    torch.testing.assert_close(classifier.output.find_values(logits), value)
    assert classifier.classes == ("lower age", "higher age")
    assert [classifier.index_of(word) for word in ("lower", "higher", "higher age")] == [0, 1, 1]
    assert opened(1, "value", value_range=(0, 1)).classes == ("lower", "higher")


def test_the_range_of_a_regression_is_measured_and_told() -> None:
    lines: list[str] = []
    with redirect_warnings(lines.append):
        classifier = opened(1, "value", lambda z: 1000 + z)
    assert "no value_range" in lines[0] and "value_range: [low, high]" in lines[0]
    low, high = classifier.output.value_range or (0, 0)
    assert 990 < low < high < 1010
    values = classifier.output.find_values(classifier(IMAGES))
    torch.testing.assert_close(values, 1000 + numbers(1)[:, 0], atol=1e-2, rtol=0)


def test_both_targets_of_one_number_have_gradients() -> None:
    for output in ("sigmoid", "value"):
        classifier = opened(1, output, value_range=(-1, 1) if output == "value" else None)
        images = IMAGES.clone().requires_grad_()
        lower, higher = (
            torch.autograd.grad(classifier(images)[:, target].sum(), images)[0] for target in (0, 1)
        )
        assert higher.abs().sum() > 0
        torch.testing.assert_close(lower, -higher)


@pytest.mark.parametrize(
    ("classes", "output", "wrap", "words"),
    [
        (1, None, lambda z: z, ["one number", "sigmoid", "probability", "value"]),
        (1, "logits", lambda z: z, ["one number", "sigmoid", "probability", "value"]),
        (1, "probabilities", torch.sigmoid, ["one number", "probability"]),
        (3, "probabilities", torch.sigmoid, ["sum of", "sigmoid_probabilities", "sigmoid"]),
        (3, "probabilities", lambda z: z, [r"\[0, 1\]", "logits", "sigmoid"]),
        (1, "probability", lambda z: z, [r"\[0, 1\]", "sigmoid", "value"]),
        (3, "probability", lambda z: z, ["1 × 1 numbers", "probabilities", "sigmoid"]),
        (3, "value", lambda z: z, ["1 × 1 numbers", "got 1 × 3", "logits"]),
        (3, "logits", lambda z: z.softmax(1), ["softmax already", "output: probabilities"]),
        (3, None, lambda z: 100 * z.softmax(1), ["percentages", "output: probabilities"]),
        (3, None, lambda z: (255 * z.softmax(1)).round().byte(), ["as bytes", "by 25"]),
        (3, None, lambda z: (256 * z.softmax(1)).round().int(), ["as bytes", "by 25"]),
        (2, "logits", lambda z: z[:, :, None, None].expand(-1, -1, 4, 4), ["averages each map"]),
        (3, None, lambda z: z / 0, ["no number"]),
        (3, None, lambda z: z.argmax(1), ["one whole number", "predicted class", "argmax"]),
        (3, "sigmoid", lambda z: z.argmax(1), ["one whole number", "argmax"]),
        (3, "probability", lambda z: z.argmax(1, keepdim=True), ["one whole number", "argmax"]),
        (3, None, lambda z: torch.complex(z, z), ["real numbers", "complex"]),
        (3, None, lambda z: z.to_sparse(), ["real numbers", "sparse"]),
    ],
)
def test_what_cannot_be_is_refused_with_the_words_that_would_be_right(
    classes: int, output: str | None, wrap: Callable[[Tensor], Any], words: list[str]
) -> None:
    with pytest.raises(ClassifierError, match=".*".join(words)):
        opened(classes, output, wrap)


def test_unknown_words_list_the_known_ones() -> None:
    for word, meant in (("multilabel", "sigmoid"), ("logit", "sigmoid"), ("logitz", "logits")):
        with pytest.raises(ClassifierError, match=rf"logits, .*did you mean {meant}\?"):
            opened(3, word)
    with pytest.raises(ClassifierError, match="belongs to output: value"):
        opened(3, "logits", value_range=(0, 1))
    with pytest.raises(ClassifierError, match="the low one first"):
        opened(1, "value", value_range=(1, 0))


def test_a_softmax_inside_is_taken_for_probabilities_and_told() -> None:
    lines: list[str] = []
    with redirect_warnings(lines.append):
        classifier = opened(3, None, lambda z: z.softmax(1))
    assert "sum to 1" in lines[0] and "output: probabilities" in lines[0]
    torch.testing.assert_close(classifier.predict_probabilities(IMAGES), numbers(3).softmax(1))


def _round(places: int, factor: int = 1) -> Callable[[Tensor], Tensor]:
    return lambda z: (factor * z.softmax(1)).round(decimals=places)


@pytest.mark.parametrize(
    ("classes", "wrap"),
    [
        (5, _round(2)),
        (20, _round(1)),
        (100, _round(3)),
        (5, lambda z: (z.softmax(1) * 255).round() / 255),
        (5, lambda z: (z.softmax(1) * 256).round() / 256),
        (5, lambda z: z.softmax(1).bfloat16()),
    ],
)
def test_a_rounded_softmax_is_taken_for_probabilities(
    classes: int, wrap: Callable[[Tensor], Tensor]
) -> None:
    lines: list[str] = []
    with redirect_warnings(lines.append):
        classifier = opened(classes, None, wrap)
        opened(classes, "probabilities", wrap)
    assert classifier.output.name == "probabilities" and "sum to 1" in lines[0]
    expected = numbers(classes).softmax(1)
    with torch.no_grad():
        assert (classifier.predict_probabilities(IMAGES) - expected).abs().max() < 0.08
    with pytest.raises(ClassifierError, match="percentages"):
        opened(classes, None, _round(0, 100))


@pytest.mark.parametrize("places", [1, 2, 3])  # the sums of one place may be off by a quarter
def test_rounded_sigmoids_are_no_softmax(places: int) -> None:
    lines: list[str] = []
    with redirect_warnings(lines.append):
        classifier = opened(5, None, lambda z: z.sigmoid().round(decimals=places))
    assert classifier.output.name == "logits"
    assert "sigmoid_probabilities" in lines[0] and "output: probabilities" in lines[0]
    if places > 1:
        with pytest.raises(ClassifierError, match="expected probabilities that sum to 1"):
            opened(5, "probabilities", lambda z: z.sigmoid().round(decimals=places))


@pytest.mark.parametrize(
    ("source", "is_told"),
    [
        ("timm/resnet10t", False),
        ("apercu.classifiers.small_resnet:SmallResNet", False),
        ("m:f", True),
    ],
)
def test_small_logits_of_a_library_are_no_sigmoid(source: str, is_told: bool) -> None:
    network = Network(source, Net(2, torch.sigmoid), "digest", InputSpec(size=(8, 8)))
    lines: list[str] = []
    with redirect_warnings(lines.append):
        resolved = resolve_output(network, network.forward, IMAGES, source)
    assert resolved.meaning.name == "logits"
    assert bool(lines) == is_told


@pytest.mark.parametrize("last", [nn.Identity, nn.Sigmoid, SigmoidByFunction])
def test_layers_of_torch_without_a_sigmoid_are_not_suspected(last: Callable[[], nn.Module]) -> None:
    head = nn.Linear(3 * 8 * 8, 4)
    nn.init.constant_(head.weight, 1e-3)
    nn.init.constant_(head.bias, 0.3)
    lines: list[str] = []
    with redirect_warnings(lines.append):
        classifier = open_classifier(nn.Sequential(nn.Flatten(), head, last()), size=8)
    told = [line for line in lines if "if there is a sigmoid" in line]
    assert classifier.output.name == "logits" and len(told) == (last is not nn.Identity)


def test_a_sigmoid_inside_is_told() -> None:
    lines: list[str] = []
    with redirect_warnings(lines.append):
        opened(3, "sigmoid", torch.sigmoid)
    assert "output: sigmoid_probabilities" in lines[0]
    lines.clear()
    with redirect_warnings(lines.append):
        classifier = opened(3, "sigmoid_probabilities", torch.sigmoid)
    assert not lines
    torch.testing.assert_close(classifier.predict_probabilities(IMAGES), numbers(3).sigmoid())


@dataclass
class Out:
    logits: Tensor | None = None
    hidden: Tensor | None = None


class Auxiliary(NamedTuple):
    logits: Tensor
    aux_logits: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: (z, z[:, :, None, None].expand(-1, -1, 2, 2)),
        lambda z: [z],
        lambda z: {"logits": z, "features": z.repeat(1, 2)},
        lambda z: Out(z, z.repeat(1, 3)),
        lambda z: Auxiliary(z, 2 * z),
        lambda z: (z.repeat(1, 5), {"head": z}),
        lambda z: z[:, :, None, None],
        lambda z: z[:, None, :],
        lambda z: (z[:, None, :, None], z.repeat(1, 2)),
        lambda z: SimpleNamespace(logits=z, features=z.repeat(1, 2), name="net"),
        lambda z: Categorical(logits=z),
    ],
)
def test_the_logits_are_found_among_what_a_network_returns(wrap: Callable[[Tensor], Any]) -> None:
    classifier = opened(3, None, wrap, classes=["a", "b", "c"])
    torch.testing.assert_close(classifier(IMAGES).softmax(1), numbers(3).softmax(1))


def test_a_position_chooses_among_names() -> None:
    def both(z: Tensor) -> Any:
        return {"first": z, "last": 2 * z}

    classifier = opened(3, None, both, output_name=1)
    torch.testing.assert_close(classifier(IMAGES), 2 * numbers(3))
    with pytest.raises(ClassifierError, match="it has no output '2'; it returns first"):
        opened(3, None, both, output_name=2)


def test_several_tensors_are_asked_for_by_name() -> None:
    def both(z: Tensor) -> Any:
        return {"first": z, "last": {"deep": 2 * z}}

    with pytest.raises(ClassifierError, match=r"first \(1 × 3\), last\.deep .*output_name"):
        opened(3, None, both)
    classifier = opened(3, None, both, output_name="last.deep")
    torch.testing.assert_close(classifier(IMAGES), 2 * numbers(3))
    with pytest.raises(ClassifierError, match=r"no output 'firs'.*did you mean first\?"):
        opened(3, None, both, output_name="firs")


def test_a_function_may_return_several_tensors() -> None:
    net = Net(3)
    with torch.no_grad():
        classifier = open_classifier(lambda x: {"logits": net(x).numpy(), "n": [1.0]}, size=8)
        torch.testing.assert_close(classifier(IMAGES), numbers(3))
        lists = open_classifier(lambda x: net(x).tolist(), size=8)
        torch.testing.assert_close(lists(IMAGES), numbers(3))


@pytest.mark.parametrize("output", get_args(OutputName))
def test_all_words_are_refused_or_give_finite_logits(output: OutputName) -> None:
    columns = 1 if output in ("probability", "value") else 3
    raw = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])[:, :columns]
    meaning = Output(name=output, columns=columns, value_range=(0, 1))
    logits = meaning.convert_to_logits(check_numbers(raw, meaning, 2, "net"))
    assert logits.isfinite().all() and logits.shape == (2, meaning.class_count)
    if output in ("probabilities", "sigmoid_probabilities", "probability"):
        given = torch.cat([1 - raw, raw], 1) if columns == 1 else raw
        torch.testing.assert_close(meaning.decision.probabilities(logits), given)


def test_a_saved_classifier_means_the_same(tmp_path: Path) -> None:
    for number, (classes, output, more) in enumerate(
        [
            (3, "sigmoid", {"classes": ["a", "b", "c"]}),
            (1, "sigmoid", {"classes": ["a"]}),
            (1, "value", {"classes": ["age"], "value_range": (10, 30)}),
            (3, None, {"classes": ["a", "b", "c"]}),
        ]
    ):
        first = opened(classes, output, **more)
        again = open_classifier(save_classifier(first, tmp_path / str(number)))
        assert again.fingerprint == first.fingerprint
        assert (again.classes, again.output) == (first.classes, first.output)
        torch.testing.assert_close(again(IMAGES), first(IMAGES))
    several = opened(3, None, lambda z: {"x": z, "y": 2 * z}, output_name="y")
    again = open_classifier(save_classifier(several, tmp_path / "several"))
    assert again.fingerprint == several.fingerprint
    torch.testing.assert_close(again(IMAGES), 2 * numbers(3))


def test_two_names_of_one_logit_build_a_network_of_one_number(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for columns, names, output in (
        (1, ["cat"], "sigmoid"),
        (1, ["not cat", "cat"], "sigmoid"),
        (2, ["cat", "dog"], "sigmoid"),
        (1, ["low", "high"], "value"),
    ):
        import timm

        net = timm.create_model("test_resnet", num_classes=columns)
        save_file(net.state_dict(), tmp_path / "net.safetensors")
        card = {
            "source": "timm/test_resnet",
            "weights": "net.safetensors",
            "input": {"size": [32, 32]},
            "output": output,
            "classes": names,
        }
        if output == "value":
            card["value_range"] = [0, 1]
        (tmp_path / "card.json").write_text(json.dumps(card))
        classifier = open_classifier(tmp_path / "card.json")
        assert classifier.output.columns == columns and len(classifier.classes) == 2
        again = open_classifier(save_classifier(classifier, tmp_path / f"{columns}{output}{names}"))
        assert again.fingerprint == classifier.fingerprint


def test_outputs_have_their_own_fingerprints() -> None:
    prints = {
        opened(1, "sigmoid").fingerprint,
        opened(1, "value", value_range=(0, 1)).fingerprint,
        opened(1, "value", value_range=(0, 2)).fingerprint,
        opened(1, "probability", torch.sigmoid).fingerprint,
    }
    assert len(prints) == 4


def test_a_layer_called_output_is_a_layer(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "layers_called.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.output = torch.nn.Linear(192, 4); self.classes = 4\n"
        "    def forward(self, x): return self.output(x.flatten(1))\n"
        "def said():\n"
        "    net = Net(); net.kind = 1; return net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    card = {"source": "layers_called:Net", "input": {"size": [8, 8]}, "output": "sigmoid"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    classifier = open_classifier(tmp_path / "card.json", trust=True)
    assert classifier.output == Output(name="sigmoid", columns=4)


def test_decisions_agree_with_their_definitions() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -1.0, -2.0]])
    other = torch.tensor([[2.0, 1.0, 0.5], [-3.0, -1.0, -2.0]])
    targets = torch.tensor([2, 1])
    assert EACH_CLASS.find_predicted(logits).tolist() == [[True, False, True], [False] * 3]
    assert EACH_CLASS.is_predicted(logits, targets).tolist() == [True, False]
    assert ONE_CLASS.is_predicted(logits, targets).tolist() == [False, True]
    torch.testing.assert_close(EACH_CLASS.agreement(logits, other), torch.tensor([2 / 3, 1.0]))
    silent = torch.full((1, 80), -9.0)
    present = silent.index_fill(1, torch.arange(3), 9.0)
    assert EACH_CLASS.agreement(silent, present).tolist() == [0.0]
    assert EACH_CLASS.agreement(present, present).tolist() == [1.0]
    torch.testing.assert_close(
        EACH_CLASS.target_cross_entropy(logits, targets),
        -EACH_CLASS.log_probability(logits, targets),
    )
    for decision in (ONE_CLASS, EACH_CLASS):
        torch.testing.assert_close(
            decision.log_probabilities(logits).exp(), decision.probabilities(logits)
        )
        restored = decision.restore_logits(decision.probabilities(logits))
        torch.testing.assert_close(decision.probabilities(restored), decision.probabilities(logits))
        assert abs(float(decision.divergence(logits, logits, 4.0))) < 1e-6
        assert float(decision.divergence(logits, other, 4.0)) > 0
    assert find_decision(DecidedLogits(lambda x: x, EACH_CLASS)) is EACH_CLASS
    assert find_decision(lambda x: x) is ONE_CLASS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_logits_of_certain_probabilities_are_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[20.0, -120.0], [0.0, 1.0]], dtype=dtype)
    for decision in (ONE_CLASS, EACH_CLASS):
        expected = decision.probabilities(logits)
        restored = decision.restore_logits(expected)
        assert restored.isfinite().all()
        assert torch.equal(restored.argsort(1), logits.argsort(1))
        torch.testing.assert_close(decision.probabilities(restored), expected, atol=1e-4, rtol=0.01)


def test_classes_are_drawn_from_those_that_are_predicted_or_absent() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, -2.0], [-3.0, -1.0, -2.0, -4.0]]).repeat(50, 1)
    generator = torch.Generator().manual_seed(0)
    predicted = EACH_CLASS.draw_predicted(logits, generator).view(50, 2)
    absent = EACH_CLASS.draw_absent(logits, generator).view(50, 2)
    assert set(predicted[:, 0].tolist()) == {0, 2} and set(predicted[:, 1].tolist()) == {1}
    assert set(absent[:, 0].tolist()) == {1, 3} and set(absent[:, 1].tolist()) == {0, 2, 3}
    assert torch.equal(ONE_CLASS.draw_predicted(logits, generator), logits.argmax(1))
    assert (ONE_CLASS.draw_absent(logits, generator) != logits.argmax(1)).all()


def test_tensors_are_listed_by_key_field_and_position() -> None:
    one = torch.ones(1)
    assert list(list_tensors(one)) == [""]
    nested = (one, {"b": [one, None]}, Out(one))
    assert list(list_tensors(nested)) == ["0", "1.b.0", "2.logits"]
    assert list_tensors([[1.0, 2.0]])[""].shape == (1, 2)
    assert list_tensors("text") == {}


@pytest.mark.parametrize(
    "target", [1, "b", [1, 1], ["b", 1], torch.tensor([1, 1]), torch.tensor(1), None]
)
def test_methods_and_metrics_take_targets_of_any_form(target: Any) -> None:
    from apercu import metrics
    from apercu.methods import Gradient

    classifier = opened(3, "sigmoid", classes=["a", "b", "c"])
    indices = classifier(IMAGES).argmax(1) if target is None else torch.tensor([1, 1])
    maps = Gradient()(classifier, IMAGES, target)
    torch.testing.assert_close(maps, Gradient()(classifier, IMAGES, indices))
    boxes = torch.tensor([[0.0, 0, 6, 6]]).repeat(2, 1)
    for function, arguments in (
        (metrics.average_drop, (maps,)),
        (metrics.saliency_metric, (boxes,)),
        (metrics.road, (maps,)),
    ):
        torch.testing.assert_close(
            function(classifier, IMAGES, target, *arguments),
            function(classifier, IMAGES, indices, *arguments),
        )
    with pytest.raises(TargetError, match="no class is called 'z'"):
        metrics.average_drop(classifier, IMAGES, "z", maps)


def test_the_probability_of_a_metric_is_the_sigmoid() -> None:
    from apercu.metrics.flipping import target_probability
    from apercu.metrics.saliency import saliency_metric

    classifier = opened(3, "sigmoid")
    targets = torch.tensor([0, 2])
    expected = numbers(3).sigmoid().gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(target_probability(classifier, IMAGES, targets), expected)
    whole = torch.tensor([[0.0, 0, 8, 8]]).repeat(2, 1)
    torch.testing.assert_close(saliency_metric(classifier, IMAGES, targets, whole), -expected.log())


def test_names_of_one_number() -> None:
    two = Output(name="value", columns=1).name_classes(ClassNames.of(["young", "old"]))
    assert (two.names, two.identifiers) == (("young", "old"), ("lower", "higher"))
    with pytest.raises(ClassifierError, match="has 2 classes, but 3 names"):
        opened(1, "sigmoid", classes=["a", "b", "c"])
    assert apercu.open_classifier is open_classifier


@pytest.mark.parametrize("said", [None, "logits", "sigmoid"])
def test_what_was_said_of_the_output_is_saved(said: str | None, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    classifier = open_classifier(network, size=2, output=said)
    card = save_classifier(classifier, tmp_path / "first")
    assert json.loads(card.read_text()).get("output") == said
    again = open_classifier(save_classifier(open_classifier(card), tmp_path / "second"))
    assert again.output == classifier.output
    assert again.fingerprint == classifier.fingerprint
    images = torch.rand(2, 3, 2, 2)
    torch.testing.assert_close(again(images), classifier(images))


@pytest.mark.parametrize("output", ["probabilities", "sigmoid_probabilities"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_answer_that_is_not_a_number_is_told(output: OutputName, wrong: float) -> None:
    chances = torch.tensor([[0.5, 0.5], [wrong, 0.5], [1.0, 0.0]])
    with pytest.raises(ClassifierError, match=r"net: its output for 1 of 3 images is not a number"):
        check_numbers(chances, Output(name=output), 3, "net")


def test_an_output_is_named_by_its_position() -> None:
    classifier = opened(3, None, lambda z: (z[:, :2], z), output_name=1)
    torch.testing.assert_close(classifier(IMAGES), numbers(3))
    assert classifier.network.output_name == "1"
    again = opened(3, None, lambda z: (z[:, :2], z), output_name="1")
    assert again.fingerprint == classifier.fingerprint
    first = opened(3, None, lambda z: (z[:, :2], z), output_name=0)
    torch.testing.assert_close(first(IMAGES), numbers(3)[:, :2])


def test_a_card_names_an_output_by_its_position(tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"source": "net.onnx", "output_name": 1}))
    assert read_card(card).output_name == "1"
    card.write_text(json.dumps({"source": "net.onnx", "output_name": True}))
    with pytest.raises(ClassifierError, match=r"output_name: input .* string, got True"):
        read_card(card)
