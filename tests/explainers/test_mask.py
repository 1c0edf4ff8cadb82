"""The mask explainer's interface, its run folder, and its dial."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, SmallResNet, wrap_module
from apercu.errors import ConfigError, ImageError, RunError, TargetError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.kind import build_mask_network
from apercu.explainers.mask.levels import measure_absent_area, measure_levels, write_level_curve
from apercu.explainers.mask.settings import MASK_PRESETS, MaskSettings
from apercu.explainers.mask.threshold import MAX_CHANGE, raise_threshold
from apercu.images import open_images
from apercu.training.data import TrainingImages

CLASSES = ("cat", "dog", "bird", "fish")


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    card = ClassifierCard(
        source="apercu.classifiers.small_resnet:SmallResNet",
        options={"channels": 3, "classes": 4, "size": [32, 32], "width": 8},
        input=InputSpec(channels=3, size=(32, 32)),
        classes=CLASSES,
    )
    return wrap_module(SmallResNet(3, 4, (32, 32), width=8), card)


@pytest.fixture
def explainer(classifier):
    settings = MASK_PRESETS.parse({"decoder": {"width": 16, "resolution": 2}})
    network = build_mask_network(settings, ClassifierInfo.from_classifier(classifier), classifier)
    network.gate.set_threshold(1.0, 0.0)
    return MaskExplainer(
        network, ClassifierInfo.from_classifier(classifier), settings, {"steps": 0.0}
    )


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_masks_are_in_0_1_at_the_images_size(explainer, images):
    masks = explainer.attribute(images, 1)
    assert masks.shape == (3, 32, 32)
    assert masks.amin() >= 0 and masks.amax() <= 1 and masks.std() > 0


def test_targets_may_be_names_indices_and_tensors(explainer, images):
    by_index = explainer.attribute(images, [0, 2, 1])
    torch.testing.assert_close(explainer.attribute(images, ["cat", "Bird", "dog"]), by_index)
    torch.testing.assert_close(explainer.attribute(images, torch.tensor([0, 2, 1])), by_index)
    own = explainer.attribute(images)
    torch.testing.assert_close(own, explainer.attribute(images, explainer.predict(images)))


def test_the_mask_depends_on_the_class(explainer, images):
    masks = explainer.attribute_classes(images, torch.tensor([[0, 1, 2, 3]] * 3))
    for column in range(4):
        torch.testing.assert_close(masks[:, column], explainer.attribute(images, column))
    assert (masks[:, 0] - masks[:, 1]).abs().amax() > 1e-4


def test_many_classes_are_decoded_in_parts(explainer, images, monkeypatch) -> None:
    row = torch.tensor([[0, 1, 2, 3, 3, 2, 0]])
    whole = explainer.attribute_classes(images[:1], row)
    monkeypatch.setattr("apercu.explainers.mask.network.CLASSES_PER_PASS", 3)
    torch.testing.assert_close(explainer.attribute_classes(images[:1], row), whole)
    for index, column in enumerate(row[0].tolist()):
        torch.testing.assert_close(whole[0, index], explainer.attribute(images[:1], column)[0])


def test_regions_shrink_as_the_level_rises(explainer, images):
    low, high = (explainer.region(images, 0, level=level) for level in (0.02, 0.4))
    assert (high & ~low).sum() == 0 and high.sum() < low.sum()


def test_a_run_folder_gives_the_same_masks(explainer, images, tmp_path):
    explainer.save_pretrained(tmp_path / "run")
    again = MaskExplainer.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(again.attribute(images, 2), explainer.attribute(images, 2))
    assert again.classifier_info == explainer.classifier_info and again.facts == explainer.facts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "expected a run folder"),
        ("weights.safetensors", "training has not finished"),
        ("classifier.json", "damaged"),
        ("encoder/weights.safetensors", "damaged"),
    ],
)
def test_a_half_written_run_is_refused(explainer, tmp_path, name, message):
    explainer.save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(RunError, match=message):
        MaskExplainer.from_pretrained(tmp_path)


def test_truncated_weights_are_refused(explainer, tmp_path):
    explainer.save_pretrained(tmp_path)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RunError, match="damaged"):
        MaskExplainer.from_pretrained(tmp_path)


def test_wrong_input_is_one_line(explainer, images):
    with pytest.raises(ImageError, match="expected batch × 3 × 32 × 32, got 3 × 1 × 32 × 32"):
        explainer.attribute(images[:, :1])
    with pytest.raises(TargetError, match="did you mean fish"):
        explainer.attribute(images, "fisch")
    with pytest.raises(TargetError, match="expected one class or 3, got 2"):
        explainer.attribute(images, [0, 1])
    for target in (4, -1, [0, 1, 9]):
        with pytest.raises(TargetError, match="expected a class index from 0 to 3"):
            explainer.attribute(images, target)
    for level in (0.0, 1.0, 7.0):
        with pytest.raises(ConfigError, match="level: expected a number between 0 and 1"):
            explainer.region(images, 0, level=level)
    with pytest.raises(TargetError, match="expected 3 × classes, got 1 × 3"):
        explainer.attribute_classes(images, torch.tensor([[0, 1, 2]]))
    with pytest.raises(TargetError, match="from 0 to 3, got 1000"):
        explainer.attribute_classes(images, torch.tensor([[0], [1], [1000]]))


def test_whole_numbers_of_any_kind_are_indices(explainer, images, shapes_unchecked):
    expected = explainer.attribute(images, 2)
    for target in (np.int64(2), torch.tensor(2), np.array([2, 2, 2]), (2, 2, 2)):
        torch.testing.assert_close(explainer.attribute(images, target), expected)
    for target in (1.5, torch.tensor([0.5, 1.5, 2.5]), True):
        with pytest.raises(TargetError, match="expected a class name or index"):
            explainer.attribute(images, target)


@pytest.mark.parametrize("content", ["[]", '{"steps": "many"}', "not JSON"])
def test_damaged_facts_are_refused(explainer, tmp_path, content):
    explainer.save_pretrained(tmp_path)
    (tmp_path / "facts.json").write_text(content)
    with pytest.raises(RunError, match="damaged"):
        MaskExplainer.from_pretrained(tmp_path)


def test_another_classifier_is_refused(explainer, classifier):
    explainer.classifier_info.check_classifier(classifier)
    with torch.no_grad():
        classifier.module.head.bias.add_(1)
    other = wrap_module(
        classifier.module,
        ClassifierCard(source="other", input=classifier.network.input, classes=CLASSES),
    )
    with pytest.raises(RunError, match=r"trained for .* not for other"):
        explainer.classifier_info.check_classifier(other)


def test_the_dial_measures_what_its_levels_keep(explainer, classifier, images, tmp_path):
    points = measure_levels(explainer, classifier, [images[:2], images[2:]], levels=(0.01, 0.999))
    whole, empty = points
    top = classifier(images).softmax(1).amax(1).mean().item()
    low = explainer.attribute(images, classifier(images).argmax(1)) >= 0.01
    assert whole.area == pytest.approx(low.float().mean().item(), abs=1e-6)
    assert empty.area == 0
    assert empty.removed == pytest.approx(top, abs=1e-5)  # nothing is blurred
    assert empty.saliency_metric == pytest.approx(
        -classifier(images).log_softmax(1).amax(1).mean().item(), abs=1e-4
    )  # an empty region counts as the whole image
    write_level_curve(points, tmp_path)
    assert (tmp_path / "dial.csv").read_text().splitlines()[0].startswith("level,area,kept")
    assert (tmp_path / "dial.png").read_bytes().startswith(b"\x89PNG")


def test_absent_area_asks_for_other_classes(explainer, images):
    area = measure_absent_area(explainer, [images], seed=0)
    every = [explainer.attribute(images, index).mean((1, 2)) for index in range(4)]
    assert min(a.min() for a in every) <= area <= max(a.max() for a in every)


def test_an_encoder_of_one_size_cannot_see_enlarged_images() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    module(torch.zeros(1, 3, 32, 32))
    card = ClassifierCard(source="flat", input=InputSpec(size=(32, 32)), classes=("a", "b", "c"))
    classifier = wrap_module(module, card)
    info = ClassifierInfo.from_classifier(classifier)
    settings = MASK_PRESETS.parse({"encoder_side": 64, "decoder": {"width": 16, "resolution": 2}})
    with pytest.raises(ConfigError, match=r"encoder_side: .* takes images of 32 × 32 pixels only"):
        build_mask_network(settings, info, classifier)


@pytest.mark.parametrize(("side", "expected"), [(16, (32, 32)), (32, (32, 32)), (48, (48, 48))])
def test_the_encoder_never_sees_smaller_images_than_the_classifier(
    side: int, expected: tuple[int, int]
) -> None:
    card = ClassifierCard(source="flat", input=InputSpec(size=(32, 32)), classes=("a", "b", "c"))
    classifier = wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)), card)
    small = {"preset": "small", "encoder_side": side}
    network = build_mask_network(
        MASK_PRESETS.parse(small), ClassifierInfo.from_classifier(classifier)
    )
    assert network.enlarge_images(torch.rand(1, 3, 32, 32)).shape[2:] == expected


def test_newer_settings_are_stored_where_they_do_something() -> None:
    """A folder of an older version stays the same when it is written again."""
    small = {"decoder": {"width": 16, "resolution": 2}}
    usual = MASK_PRESETS.parse(small).model_dump()
    added = {"encoder_side": 320, "refinement": "object", "raise_threshold": True}
    assert not added.keys() & usual.keys()
    newer = MASK_PRESETS.parse({**small, **added})
    assert MaskSettings.model_validate_json(newer.model_dump_json()) == newer


@pytest.fixture
def planted(classifier: Classifier) -> TrainingImages:
    return TrainingImages(open_images("planted:images=24,size=32"), classifier)


@pytest.fixture
def opened(
    explainer: MaskExplainer, classifier: Classifier, planted: TrainingImages
) -> MaskExplainer:
    """An explainer whose gate is open for the predicted class, and half open for the others."""
    gate, predicted = explainer.network.gate, classifier(torch.stack(list(planted))).argmax(1)
    assert (predicted == predicted[0]).all()
    with torch.no_grad():
        gate.embedding.zero_()
        gate.bias.fill_(1)  # the peak of each other class
        gate.bias[predicted[0]] = 2
        gate.sharpness.fill_(60)
        gate.threshold.fill_(1)
    return explainer


def test_a_raised_threshold_makes_masks_of_absent_classes_smaller(
    opened: MaskExplainer, classifier: Classifier, planted: TrainingImages
) -> None:
    batch = torch.stack(list(planted))
    gate, predicted = opened.network.gate, classifier(batch).argmax(1)
    before, masks = gate.threshold.item(), opened.attribute(batch, predicted)
    absent = measure_absent_area(opened, [batch], seed=0)
    raised = raise_threshold(opened, classifier, planted)
    assert raised > 0 and gate.threshold.item() == pytest.approx(before + raised)
    change = (opened.attribute(batch, predicted) - masks).abs().sum() / masks.sum()
    assert change <= MAX_CHANGE + 1e-6
    assert measure_absent_area(opened, [batch], seed=0) < absent


def test_the_highest_threshold_that_hardly_changes_masks_is_taken(
    opened: MaskExplainer, classifier: Classifier, planted: TrainingImages
) -> None:
    batch = torch.stack(list(planted))
    gate, predicted = opened.network.gate, classifier(batch).argmax(1)
    with torch.no_grad():
        gate.sharpness.fill_(2)  # so that masks change before the end
    masks, expected = opened.attribute(batch, predicted), 1.0
    for step in range(1, 26):
        threshold = 1 + 0.01 * step
        with torch.no_grad():
            gate.threshold.fill_(threshold)
        change = (opened.attribute(batch, predicted) - masks).abs().sum() / masks.sum()
        expected = threshold if change <= MAX_CHANGE else expected
    with torch.no_grad():
        gate.threshold.fill_(1)
    raise_threshold(opened, classifier, planted)
    assert gate.threshold.item() == pytest.approx(expected, rel=1e-5)
    assert 1 < expected < 1.25
