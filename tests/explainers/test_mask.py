"""The mask explainer's interface, its run folder, and its dial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, SmallResNet, wrap_module
from apercu.errors import ConfigError, ImageError, RunError, TargetError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.kind import MASK, build_mask_network
from apercu.explainers.mask.levels import measure_absent_area, measure_levels, write_level_curve
from apercu.explainers.mask.settings import MASK_PRESETS, MaskSettings
from apercu.explainers.mask.threshold import (
    MAX_CHANGE,
    THRESHOLDS,
    choose_threshold,
)
from apercu.images import open_images
from apercu.networks.gate import ALWAYS_OPEN
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
        ("classifier.json", "missing, though it was saved here"),
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
    added = {"encoder_side": 320, "refinement": "object", "close_absent": True}
    assert not added.keys() & usual.keys()
    newer = MASK_PRESETS.parse({**small, **added})
    assert MaskSettings.model_validate_json(newer.model_dump_json()) == newer


@pytest.fixture
def planted(classifier: Classifier) -> TrainingImages:
    return TrainingImages(open_images("planted:images=24,size=32"), classifier)


@pytest.fixture
def ranked() -> Classifier:
    """A classifier of twelve classes that answers every image alike: five are likely, seven not."""
    torch.manual_seed(0)
    module = SmallResNet(3, 12, (32, 32), width=8)
    with torch.no_grad():
        module.head.weight.zero_()
        module.head.bias.copy_(torch.tensor([4.0] + 4 * [2.8] + 7 * [0.0]))
    card = ClassifierCard(
        source="apercu.classifiers.small_resnet:SmallResNet",
        options={"channels": 3, "classes": 12, "size": [32, 32], "width": 8},
        input=InputSpec(channels=3, size=(32, 32)),
        classes=tuple("abcdefghijkl"),
    )
    return wrap_module(module, card)


@pytest.fixture
def closing(ranked: Classifier) -> MaskExplainer:
    """An explainer of it whose gate knows the classes, and is open for all of them."""
    small = {"decoder": {"width": 16, "resolution": 2}, "close_absent": True}
    settings, info = MASK_PRESETS.parse(small), ClassifierInfo.from_classifier(ranked)
    network = build_mask_network(settings, info, ranked)
    with torch.no_grad():
        network.gate.embedding.zero_()
        network.gate.bias.copy_(ranked.module.head.bias + 1)
        network.gate.threshold.fill_(0)
        network.gate.sharpness.fill_(60)
    return MaskExplainer(network, info, settings, {})


def test_masks_of_absent_classes_become_smaller_and_those_of_likely_ones_stay(
    closing: MaskExplainer, ranked: Classifier, planted: TrainingImages
) -> None:
    batch = torch.stack(list(planted))
    before = [closing.attribute(batch, index) for index in range(12)]
    assert choose_threshold(closing, ranked, planted) == closing.network.gate.z_threshold.item()
    after = [closing.attribute(batch, index) for index in range(12)]
    changes = [(new - old).abs().sum() / old.sum() for new, old in zip(after, before, strict=True)]
    assert max(changes[:5]) <= MAX_CHANGE
    assert min(changes[5:]) > 3 * max(changes[:5])
    assert all(new.sum() < old.sum() for new, old in zip(after[5:], before[5:], strict=True))


def test_a_run_says_from_where_on_masks_are_closed_and_gives_the_same_ones(
    closing: MaskExplainer, ranked: Classifier, planted: TrainingImages, tmp_path: Path
) -> None:
    facts = MASK.finish(closing, ranked, planted)
    assert facts == {"z_threshold": closing.network.gate.z_threshold.item()}
    closing.facts |= facts
    closing.save_pretrained(tmp_path)
    line = f"| z-score of a logit below which masks are closed | {facts['z_threshold']:.2f} |"
    assert line in (tmp_path / "card.md").read_text()
    batch = torch.stack(list(planted))
    again = MaskExplainer.from_pretrained(tmp_path)
    torch.testing.assert_close(again.attribute(batch, 8), closing.attribute(batch, 8))


def test_the_highest_threshold_that_hardly_changes_likely_masks_is_taken(
    closing: MaskExplainer, ranked: Classifier, planted: TrainingImages
) -> None:
    batch, gate = torch.stack(list(planted)), closing.network.gate
    chosen = choose_threshold(closing, ranked, planted)

    def change(threshold: float, classes: Sequence[int]) -> Tensor:
        masks = []
        for value in (ALWAYS_OPEN, threshold):
            gate.z_threshold.fill_(value)
            masks.append(torch.stack([closing.attribute(batch, index) for index in classes]))
        return (masks[1] - masks[0]).abs().sum() / masks[0].sum()

    assert THRESHOLDS[0] < chosen < THRESHOLDS[-1]
    predicted, likely = [0], [1, 2, 3, 4]
    assert max(change(chosen, predicted), change(chosen, likely)) <= MAX_CHANGE
    assert max(change(chosen + 0.25, predicted), change(chosen + 0.25, likely)) > MAX_CHANGE


def test_no_mask_is_closed_where_all_classes_are_likely(
    classifier: Classifier, planted: TrainingImages
) -> None:
    """An image may show any of four classes, so none is closed."""
    small = {"decoder": {"width": 16, "resolution": 2}, "close_absent": True}
    settings, info = MASK_PRESETS.parse(small), ClassifierInfo.from_classifier(classifier)
    network = build_mask_network(settings, info, classifier)
    explainer = MaskExplainer(network, info, settings, {})
    batch = torch.stack(list(planted))
    with torch.no_grad():
        network.gate.bias.copy_(classifier.module.head.bias)
        network.gate.embedding.copy_(classifier.module.head.weight)
    before = [explainer.attribute(batch, index) for index in range(4)]
    assert choose_threshold(explainer, classifier, planted) == ALWAYS_OPEN
    for index in range(4):
        torch.testing.assert_close(explainer.attribute(batch, index), before[index])
