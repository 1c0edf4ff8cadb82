"""Learning curves: the drawn labels, the accuracies and their intervals, refused settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apercu import open_classifier
from apercu.classifiers import ClassifierCard, InputSpec, SmallResNet, wrap_module
from apercu.classifiers.reinitialise import copy_trainable, reinitialise_classifier
from apercu.errors import ConfigError, RunError
from apercu.images import open_images
from apercu.pretraining.backbone import open_backbone
from apercu.pretraining.evaluate import evaluate_features
from apercu.pretraining.few_labels import (
    FewLabelsProtocol,
    draw_labels,
    measure_curve,
    parse_fractions,
    parse_networks,
    reinitialise,
)
from apercu.pretraining.heads import LabelledFeatures, Linear, Nearest
from apercu.pretraining.pretrain import PretrainInputs, pretrain_backbone
from apercu.pretraining.settings import PretrainSettings

LABELS = torch.tensor([0] * 50 + [1] * 20 + [2] * 5)


def test_every_class_keeps_its_fraction_and_at_least_one() -> None:
    assert LABELS[draw_labels(LABELS, 0.01, 0)].tolist() == [0, 1, 2]
    assert LABELS[draw_labels(LABELS, 0.2, 0)].bincount().tolist() == [10, 4, 1]
    assert draw_labels(LABELS, 1.0, 0) == list(range(75))
    assert set(draw_labels(LABELS, 0.1, 3)) < set(draw_labels(LABELS, 0.5, 3))
    assert draw_labels(LABELS, 0.1, 3) != draw_labels(LABELS, 0.1, 4)


def test_classes_count_the_same_in_the_balanced_accuracy() -> None:
    """One feature separates class 0; classes 1 and 2 are the same, so one of them is lost."""
    features = torch.stack([(LABELS == 0).float(), torch.zeros(75)], 1)
    labelled = LabelledFeatures(features, LABELS)
    protocol = FewLabelsProtocol({"nearest": Nearest(1)}, (1.0,), draws=2)
    rows = {
        row.metric: row
        for row in measure_curve("plain", labelled, labelled, protocol, lambda *_: None)
    }
    balanced = rows["balanced_accuracy"]
    assert balanced.value == pytest.approx(2 / 3)
    assert rows["accuracy"].value in (pytest.approx(70 / 75), pytest.approx(55 / 75))
    for row in rows.values():
        assert row.ci95[0] <= row.value <= row.ci95[1]
        assert (row.labels, row.draws, row.n) == (75, 2, 75)


def test_the_interval_of_a_balanced_accuracy_is_that_of_each_class() -> None:
    """Right on all of one class and on none of the other: chance, whatever is resampled."""
    training = LabelledFeatures(torch.zeros(20, 1), torch.arange(2).repeat(10))
    test = LabelledFeatures(torch.zeros(30, 1), torch.tensor([0] * 28 + [1] * 2))
    protocol = FewLabelsProtocol({"nearest": Nearest(1)}, (1.0,), draws=3)
    rows = {
        row.metric: row for row in measure_curve("blind", training, test, protocol, lambda *_: None)
    }
    assert rows["balanced_accuracy"].value == 0.5
    assert rows["balanced_accuracy"].ci95 == (0.5, 0.5)
    low, high = rows["accuracy"].ci95
    assert low < rows["accuracy"].value < high <= 1


def test_more_labels_are_better_where_features_depend_on_them() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(200)
    features = torch.randn(400, 20, generator=generator) + 0.5 * labels[:, None]
    training = LabelledFeatures(features[:200], labels[:200])
    test = LabelledFeatures(features[200:], labels[200:])
    protocol = FewLabelsProtocol({"linear": Linear(penalty=10.0)}, (0.02, 1.0), draws=4)
    rows = measure_curve("plain", training, test, protocol, lambda *_: None)
    few, all_ = (row.value for row in rows if row.metric == "accuracy")
    assert few + 0.1 < all_


def test_reinitialised_weights(tiny_card: Path) -> None:
    trained = open_classifier(tiny_card)
    images = [torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))]
    one, same, other = (reinitialise_classifier(trained, images, seed) for seed in (0, 0, 1))
    assert one.fingerprint == same.fingerprint != other.fingerprint != trained.fingerprint
    assert one.classes == trained.classes
    norm = next(m for m in one.module.modules() if isinstance(m, torch.nn.BatchNorm2d))  # type: ignore[union-attr]
    received: list[torch.Tensor] = []
    handle = norm.register_forward_hook(lambda _module, inputs, _output: received.append(inputs[0]))
    one(images[0])
    handle.remove()
    torch.testing.assert_close(norm.running_mean, received[0].mean((0, 2, 3)))


def test_a_remainder_of_one_image_joins_a_batch() -> None:
    card = {"channels": 3, "classes": 2, "size": (32, 32), "width": 4}
    network = SmallResNet(**card)
    spec = InputSpec(size=(32, 32))
    classifier = wrap_module(network, ClassifierCard(source="a:b", options=card, input=spec))
    source = open_images("planted:size=32,images=33,classes=3")
    assert reinitialise(classifier, source, 0).fingerprint != classifier.fingerprint


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_every_parameter_is_reinitialised(name: str) -> None:
    """Tokens, positions and scales are no layers, and are reinitialised as well."""
    backbone = open_backbone(f"timm/{name}", InputSpec(size=(160, 160)), 0)
    assert backbone.module is not None
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            parameter.fill_(7.0)
    network = copy_trainable(backbone, reinitialise=True, seed=1)
    assert not [name for name, value in network.named_parameters() if (value == 7).all()]


def test_names() -> None:
    assert parse_fractions("0.5,1/4") == (0.5, 0.25)
    assert parse_networks(["a=timm/x", "b=c=d"]) == {"a": "timm/x", "b": "c=d"}
    with pytest.raises(ConfigError, match="expected each name once, got a twice"):
        parse_networks(["a=x", "a=y"])


def test_an_evaluation_from_python(tiny_card: Path, tmp_path: Path) -> None:
    images = "planted:size=32,images=12,classes=3"
    words = {"fractions": "1", "draws": 2, "say": lambda line: None}
    named = evaluate_features(
        {"a": str(tiny_card)}, images, images, str(tmp_path / "named"), heads="linear", **words
    )
    opened = evaluate_features(
        {"a": open_classifier(tiny_card)},
        images,
        images,
        tmp_path / "opened",
        heads={"linear": Linear()},
        **{**words, "fractions": [1.0]},
    )
    assert named == opened and {row.head for row in named} == {"linear"}
    assert (tmp_path / "named" / "report.html").is_file()
    for networks, options, line in (
        ({}, {}, "network: expected at least one"),
        ({"a": tiny_card}, {"joined": {"both": ("a", "b")}}, "join: both: expected names"),
        ({"a": tiny_card}, {"label": "kind"}, "columns of it"),
        ({"a": tiny_card}, {"fractions": [0.5, 2.0]}, "above 0 and up to 1"),
        ({"a": tiny_card}, {"seed": -1}, "seed: expected a whole number"),
    ):
        with pytest.raises(ConfigError, match=line):
            evaluate_features(networks, images, images, tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()


def test_a_pretraining_from_python(tmp_path: Path) -> None:
    inputs = PretrainInputs("planted:size=32,images=12,classes=3", "timm/test_resnet")
    words = {"steps": 1, "batch": 4, "say": lambda line: None}
    backbone, facts = pretrain_backbone("transformation", inputs, str(tmp_path / "run"), **words)
    assert facts["steps"] == 1
    assert backbone.fingerprint == open_classifier(tmp_path / "run").fingerprint
    with pytest.raises(RunError, match="resume"):
        pretrain_backbone("transformation", inputs, tmp_path / "run", **words)
    for pretext, options, line in (
        ("transformatio", {}, "did you mean transformation"),
        ("transformation", {"config": {"schedule": {"rat": 1}}}, "did you mean rate"),
        (PretrainSettings(), {"config": {}}, "the settings are given already"),
        ("transformation", {"device": "gpu"}, "device: expected one of"),
    ):
        with pytest.raises(ConfigError, match=line):
            pretrain_backbone(pretext, inputs, tmp_path / "refused", **options, **words)
    assert not (tmp_path / "refused").exists()
