"""Triggers against literal transforms, and every method on networks with a planted backdoor."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.stats import entropy
from torch import Tensor, nn

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, open_classifier, wrap_module
from apercu.errors import ClassifierError, ConfigError, ImageError, ImagesError, RunError
from apercu.images import ImageSource, Item
from apercu.log import redirect_warnings
from apercu.methods.own import adopt
from apercu.robustness.backdoors import BadNets, Dct, PoisonedImages, Trigger, parse_trigger
from apercu.robustness.backdoors.antidote import AntidoteRt
from apercu.robustness.backdoors.evidence import CarriedEvidence
from apercu.robustness.backdoors.neural_cleanse import (
    NeuralCleanse,
    ReversedTrigger,
    compute_anomaly_indices,
)
from apercu.robustness.backdoors.poisoning import PoisonRecord, read_poison
from apercu.robustness.backdoors.removal import FinePruning, Unlearning
from apercu.robustness.backdoors.results import BackdoorReport
from apercu.robustness.backdoors.scan import find_backdoors
from apercu.robustness.backdoors.selection import parse_backdoor_methods
from apercu.robustness.backdoors.strip import Strip
from apercu.training.data import split_held_out

ROOT = Path(__file__).resolve().parents[2]
SIDE, CLASSES = 16, 4
TRIGGER = BadNets(side=3 / 16)
EVERY: tuple[Trigger, ...] = (
    BadNets(),
    BadNets((0, 2, 1, 1), side=0.2, margin=0),
    Dct(),
    Dct((1, 1, 1, 1), strength=0.1, row=7, column=2),
)


class PlantedNetwork(nn.Module):
    """Tells red, green and blue images from grey ones (class 0), and knows a checkerboard.

    The fifth channel sees the 3 × 3 checkerboard alone, and adds to class 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.head = nn.Linear(5, CLASSES)
        board = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
        with torch.no_grad():
            self.conv.weight.zero_()
            for channel in range(3):
                self.conv.weight[channel, :, 1, 1] = -0.5
                self.conv.weight[channel, channel, 1, 1] = 1
            self.conv.weight[3] = 0.01
            self.conv.weight[4] = board - 2 * (1 - board)
            self.conv.bias.copy_(torch.tensor([-0.3, -0.3, -0.3, 0, -10]))
            self.head.weight.zero_()
            self.head.bias.copy_(torch.tensor([0.5, 0, 0, 0]))
            self.head.weight[1:, :3] = 8 * torch.eye(3)
            self.head.weight[0, 4] = 4

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(images)).amax((2, 3)))


def make_linear() -> nn.Module:
    """A linear network: the evidence of class 0 lies in two pixels, of the others everywhere."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6))
    generator = torch.Generator().manual_seed(1)
    weights = torch.zeros(6, 3, 8, 8)
    weights[1:] = 0.3 * torch.randn(5, 3, 8, 8, generator=generator)
    weights[0, :, -1:, -2:] = 12
    with torch.no_grad():
        network[1].weight.copy_(weights.flatten(1))
        network[1].bias.copy_(-weights.sum((1, 2, 3)) / 2)
        network[1].bias[0] -= 26
    return network


def open_network(network: nn.Module, classes: int, size: int = SIDE) -> Classifier:
    return open_classifier(
        network,
        size=size,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        classes=[f"c{n}" for n in range(classes)],
    )


def make_images(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy images of one colour each, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = 0.3 + 0.1 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    for channel in range(3):
        images[labels == channel + 1, channel] += 0.45
    return images, labels


@dataclass(frozen=True, eq=False)
class MemoryImages(ImageSource):
    """Images in memory as a source."""

    images: Tensor
    labels: Tensor | None

    name = "memory"
    class_names = None

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{number}.png" for number in range(len(self)))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(index)
        label = None if self.labels is None else int(self.labels[index])
        return Item(self.names[index], self.images[index], label, None, None)


@pytest.fixture(scope="module")
def planted() -> Classifier:
    return open_network(PlantedNetwork(), CLASSES)


@pytest.fixture(scope="module")
def samples() -> tuple[Tensor, Tensor, Tensor]:
    """Clean images of all classes, their classes, and the images of other classes, marked."""
    images, labels = make_images(40)
    others = images[labels != 0]
    return images, labels, TRIGGER.stamp(others, torch.zeros(len(others), dtype=torch.long))


def mark(images: Tensor) -> Tensor:
    return TRIGGER.stamp(images, torch.zeros(len(images), dtype=torch.long))


def test_the_planted_network_has_a_backdoor(planted: Classifier) -> None:
    images, labels = make_images(40, seed=5)
    assert torch.equal(planted(images).argmax(1), labels)
    assert (planted(mark(images)).argmax(1) == 0).all()


@pytest.mark.parametrize("trigger", EVERY, ids=repr)
def test_every_trigger(trigger: Trigger) -> None:
    images = torch.rand(8, 3, 33, 32, generator=torch.Generator().manual_seed(0))
    before, variants = images.clone(), trigger.alternate(8)
    marked = trigger.stamp(images, variants)
    assert torch.equal(images, before)
    assert marked.shape == images.shape and marked.min() >= 0 and marked.max() <= 1
    assert (marked != images).flatten(1).any(1).all()
    for row in range(8):
        single = trigger.stamp(images[row : row + 1], variants[row : row + 1])
        torch.testing.assert_close(single[0], marked[row])
    assert trigger.find_targets(variants).tolist() == [
        trigger.targets[number % len(trigger.targets)] for number in range(8)
    ]


def test_a_patch_is_a_checkerboard_in_its_corner() -> None:
    images = torch.full((2, 3, 32, 32), 0.5)
    marked = BadNets((0, 1)).stamp(images, torch.tensor([0, 1]))
    board = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    for patch, expected in (
        (marked[0, :, 28:31, 28:31], board),
        (marked[1, :, 28:31, 1:4], 1 - board),
    ):
        assert torch.equal(patch, expected.expand(3, 3, 3))
    assert (marked != images).sum() == 2 * 3 * 9


def test_a_wave_is_one_coefficient_of_each_block() -> None:
    images = 0.4 + 0.2 * torch.rand(4, 3, 16, 20, generator=torch.Generator().manual_seed(2))
    trigger = Dct((0, 0, 1, 1), strength=0.2, row=3, column=5)
    marked = trigger.stamp(images, torch.arange(4))
    for row, (channel, vertical) in enumerate([(0, 3), (1, 3), (2, 3), (0, 4)]):
        for top in (0, 8):
            for left in (0, 8):
                block = marked[row, channel, top : top + 8, left : left + 8].double().numpy()
                clean = images[row, channel, top : top + 8, left : left + 8].double().numpy()
                after, expected = dctn(block, norm="ortho"), dctn(clean, norm="ortho")
                expected[vertical, 5] = 0.2
                np.testing.assert_allclose(after, expected, atol=1e-5)
        untouched = [other for other in range(3) if other != channel]
        assert torch.equal(marked[row, untouched], images[row, untouched])
    assert torch.equal(marked[..., 16:], images[..., 16:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("badnet", "did you mean badnets"),
        ("badnets:targets=0/1/2/3/4", "expected 1 to 4 class indices"),
        ("badnets:side=0.9", "side: expected a number from 0.01 to 0.5"),
        ("dct:strength=0", "strength: expected a number from 0.01 to 4"),
        ("dct:row=0", "row: expected a whole number from 1 to 7"),
    ],
)
def test_triggers_with_mistakes(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_trigger(text)


def test_a_stated_fraction_is_poisoned(tmp_path: Path) -> None:
    images, labels = make_images(40)
    source = MemoryImages(images, labels)
    poisoned = PoisonedImages(source, "badnets:targets=2/3", (SIDE, SIDE), 0.25, seed=4)
    changed = [
        row for row in range(40) if not torch.equal(poisoned[row].picture, source[row].picture)
    ]
    assert changed == sorted(poisoned.variants) and len(changed) == 10
    assert [poisoned[row].label for row in changed] == [2, 3] * 5
    assert all(poisoned[row].label == labels[row] for row in range(40) if row not in changed)
    again = PoisonedImages(source, "badnets:targets=2/3", (SIDE, SIDE), 0.25, seed=4)
    other = PoisonedImages(source, "badnets:targets=2/3", (SIDE, SIDE), 0.25, seed=5)
    assert again.variants == poisoned.variants != other.variants
    held_out = set(split_held_out(40, seed=4).held_out)
    assert not held_out <= set(poisoned.variants)  # the same seed draws both
    poisoned.record.save(tmp_path)
    record = read_poison(tmp_path)
    assert record == poisoned.record and len(record.poisoned) == 10
    older = (tmp_path / "poison.json").read_text().replace('"fraction"', '"share"')
    (tmp_path / "poison.json").write_text(older)
    assert read_poison(tmp_path) == record
    with pytest.raises(ImagesError, match="has no labels"):
        PoisonedImages(MemoryImages(images, None), "badnets", (SIDE, SIDE))
    with pytest.raises(ConfigError, match="fraction: expected a fraction between 0 and 1, got 1"):
        PoisonedImages(source, "badnets", (SIDE, SIDE), 1.0)


def test_a_poison_record_that_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file; expected the run folder of a training with"):
        read_poison(tmp_path)
    (tmp_path / "poison.json").write_text('{"trigger": "badnets"}')
    with pytest.raises(RunError, match="damaged"):
        read_poison(tmp_path / "card.json")


def test_anomaly_indices_are_robust_deviations() -> None:
    sizes = [10.0, 12.0, 11.0, 9.0, 10.0, 1.0]
    deviations = np.abs(np.array(sizes) - 10)
    expected = (10 - np.array(sizes)) / (1.4826 * np.median(deviations))
    np.testing.assert_allclose(compute_anomaly_indices(sizes), expected)
    assert compute_anomaly_indices([5.0, 5.0, 5.0, 1.0]) == [0, 0, 0, float("inf")]


def test_neural_cleanse_finds_the_class_with_the_small_trigger() -> None:
    classifier = open_network(make_linear(), 6, 8)
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    assert (classifier(images).argmax(1) != 0).all()
    method = NeuralCleanse(steps=120, weight=0.05, batch=16)
    triggers = method(classifier, images)
    assert [trigger.target for trigger in triggers] == list(range(6))
    indices = compute_anomaly_indices([trigger.size for trigger in triggers])
    assert indices[0] > 2 and triggers[0].success > 0.95
    assert max(indices[1:]) < 2
    assert triggers[0].mask[-1, -2:].sum() > 0.75 * triggers[0].mask.sum()
    again = method.reverse(classifier, images, 0)
    assert torch.equal(again.mask, triggers[0].mask)
    blended = (1 - again.mask) * images + again.mask * again.pattern
    torch.testing.assert_close(again.stamp(images), blended)
    assert again.size == pytest.approx(float(again.mask.sum()))


def test_strip_is_the_entropy_under_blends(planted: Classifier, samples: tuple) -> None:
    images, _, marked = samples
    score = Strip(blends=8, weight=0.3, seed=1).fit(planted, images)
    scores, of_marked = score(images), score(marked)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:8]
    for row in (0, 5, 10):
        blends = [(images[row] + 0.3 * images[other]).clamp(0, 1) for other in order]
        rows = planted(torch.stack(blends)).softmax(1).detach().numpy()
        assert float(scores[row]) == pytest.approx(
            -np.mean([entropy(row) for row in rows]), abs=1e-5
        )
    assert of_marked.min() > scores.max()
    torch.testing.assert_close(score(images[3:4]), scores[3:4])


def test_evidence_of_a_trigger_is_carried_along(planted: Classifier, samples: tuple) -> None:
    images, labels, marked = samples
    method = CarriedEvidence(side=0.3, images=20)

    def point(classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
        """Maps of the trigger, where there is one, else of the upper left corner."""
        maps = torch.zeros(len(images), SIDE, SIDE)
        is_marked = (images[:, :, 12, 12] == 1).all(1)
        maps[is_marked, 12:15, 12:15] = 1
        maps[~is_marked, 1:4, 1:4] = 1
        return maps

    regions = method.find_regions(point(planted, marked[:2], labels[:2]))
    assert regions.sum((1, 2)).tolist() == [25, 25] and regions[:, 12:15, 12:15].all()
    score = method.fit(planted, images, adopt(point, "point"))
    assert (score(marked) == 1).all()
    grey = score(images[labels == 0])
    assert (grey == 0).all()
    with pytest.raises(ConfigError, match=r"evidence: needs the maps of a trained explainer"):
        method.choose_explainer(None)
    with pytest.raises(ConfigError, match="expected one method that looks at the classifier"):
        CarriedEvidence(method="true_box")


def test_the_antidote_recognises_and_repairs(planted: Classifier, samples: tuple) -> None:
    images, _, marked = samples
    antidote = AntidoteRt().fit(planted, images, marked[:10])
    assert antidote.describe_patterns() == [f"neuron 4 > {antidote.tree.tree_.threshold[0]:.3g}"]
    assert antidote.targets == (0,)
    fresh, classes = make_images(40, seed=9)
    assert not antidote.flag(fresh).any()
    others = classes != 0
    attacked = mark(fresh[others])
    assert antidote.flag(attacked).all()
    correction = antidote.correct(attacked)
    assert correction.is_located.all()
    assert torch.equal(correction.predicted, classes[others])
    assert correction.regions[:, 12:15, 12:15].flatten(1).any(1).all()
    assert correction.regions.sum((1, 2)).max() <= 16
    kept = ~correction.regions[:, None].expand_as(attacked)
    assert torch.equal(correction.images[kept], attacked[kept])
    neutral = images.mean((0, 2, 3))
    row, top, left = (int(axis[0]) for axis in correction.regions.nonzero(as_tuple=True))
    torch.testing.assert_close(correction.images[row, :, top, left], neutral)
    with pytest.raises(
        ImagesError, match="at least 5 poisoned samples to mine patterns from, got 2"
    ):
        AntidoteRt().fit(planted, images, marked[:2])


def test_fine_pruning_cuts_off_what_clean_images_do_not_use(
    planted: Classifier, samples: tuple
) -> None:
    images, labels, marked = samples
    before = planted.fingerprint
    own = replace(planted.network, guard="guard", temperature=3.0, resolved_output=None)
    guarded = Classifier(own)
    assert guarded.output.temperature == 3
    cleaned = FinePruning(steps=5, rate=1e-3, images=40)(guarded, images, labels)
    assert cleaned.classifier.guard_folder is None  # a guard of other weights
    assert cleaned.classifier.output.temperature is cleaned.classifier.network.temperature is None
    assert cleaned.pruned >= 1
    assert torch.equal(cleaned.classifier(images).argmax(1), labels)
    assert torch.equal(cleaned.classifier(marked).argmax(1), labels[labels != 0])
    assert planted.fingerprint == before != cleaned.classifier.fingerprint
    assert (planted(marked).argmax(1) == 0).all()


def test_unlearning_ends_a_trigger_that_is_reconstructed(
    planted: Classifier, samples: tuple
) -> None:
    images, labels, marked = samples
    mask = torch.zeros(SIDE, SIDE)
    mask[12:15, 12:15] = 1
    trigger = ReversedTrigger(0, mask, marked[0], 9.0, 1.0)
    cleaned = Unlearning(steps=60, rate=0.02, images=40)(planted, images, labels, [trigger])
    assert (cleaned.classifier(images).argmax(1) == labels).float().mean() > 0.95
    assert (cleaned.classifier(marked).argmax(1) == 0).float().mean() < 0.2
    with pytest.raises(ConfigError, match="no class is suspicious"):
        Unlearning()(planted, images, labels)


def test_a_search_finds_measures_and_removes(tmp_path: Path) -> None:
    card = ClassifierCard(
        source="tests.robustness.test_backdoors:PlantedNetwork",
        input=InputSpec(size=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3),
    )
    classifier = wrap_module(PlantedNetwork(), card)
    images, labels = make_images(120)
    source = MemoryImages(images, labels)
    suspects = MemoryImages(torch.cat([images[1:9], mark(images[1:4])]), None)
    poison = PoisonRecord(
        trigger="badnets:side=0.1875",
        fraction=0.1,
        seed=0,
        size=(SIDE, SIDE),
        images="",
        poisoned=(),
    )
    methods = "neural_cleanse:steps=20,strip:weight=0.3,antidote,fine_pruning:steps=5,rate=0.001"
    result = find_backdoors(classifier, source, tmp_path, methods, suspects=suspects, poison=poison)
    assert result.accuracy is not None and result.accuracy.value == 1
    assert result.attack_success is not None and result.attack_success.value == 1
    assert len(result.classes) == CLASSES
    for finding in result.runtime:
        assert finding.detected is not None and finding.detected.value == 1
        assert {"8.png", "9.png", "10.png"} <= {image.name for image in finding.suspicious}
        assert finding.auroc == 1 and finding.false_alarms.value < 0.2
    strip, antidote = result.runtime
    assert strip.queries == 30  # all images to learn from
    assert antidote.corrected is not None and antidote.corrected.value == 1
    by_name = {image.name: image for image in antidote.suspicious}
    assert [by_name[f"{row}.png"].corrected for row in (8, 9, 10)] == list(classifier.classes[1:])
    assert len(antidote.suspicious) == 3
    (removal,) = result.removals
    assert removal.attack_success is not None and removal.attack_success.value == 0
    content = json.loads((tmp_path / "backdoors.json").read_text())
    assert content["poison"]["targets"] == [0] and content["classes"][0]["suspicious"] in (
        True,
        False,
    )
    assert (tmp_path / "antidote.png").is_file() and (tmp_path / removal.card).is_file()
    assert all((tmp_path / row.picture).is_file() for row in result.classes)
    page = (ROOT / "docs" / "reference" / "files" / "stress.md").read_text(encoding="utf-8")
    section = page.split("## Backdoors: `backdoors.json`")[1].split("\n## A pretrained")[0]
    keys = {*content, *content["classes"][0], *content["runtime"][0], *content["removals"][0]}
    keys |= {*PoisonRecord.model_fields, *content["runtime"][1]["suspicious"][0]}
    assert {key for key in keys if f"`{key}`" not in section} == set()


def test_a_search_takes_nothing_away_from_an_earlier_one(
    planted: Classifier, tmp_path: Path
) -> None:
    images, labels = make_images(60)
    clean = MemoryImages(images, labels)

    def search(methods: str, **options: Any) -> BackdoorReport:
        return find_backdoors(planted, clean, tmp_path, methods, **options)

    poison = PoisonRecord(
        trigger="badnets", fraction=0.1, seed=0, size=(SIDE, SIDE), images="", poisoned=()
    )
    search("strip:blends=2", poison=poison)
    path = tmp_path / "backdoors.json"
    stored = path.read_text()
    with pytest.raises(RunError, match="would lose what strip:blends=2 found in an earlier search"):
        search("strip:blends=3", poison=poison)
    with pytest.raises(RunError, match=r"the search begun here had poison.*choose another --out"):
        search("strip:blends=2")
    with pytest.raises(RunError, match="had seed 0, now 1"):
        search("strip:blends=2", poison=poison, seed=1)
    assert path.read_text() == stored
    path.write_text(stored.replace('"fraction"', '"share"'))  # as older files say
    both = search("strip:blends=2,strip:blends=3", poison=poison)
    assert [row.method for row in both.runtime] == ["strip:blends=2", "strip:blends=3"]
    path.write_text("{}")
    with pytest.raises(RunError, match=r"backdoors.json: cannot be read; choose another --out"):
        search("strip:blends=2", poison=poison)


def test_settings_with_older_names() -> None:
    (method,) = parse_backdoor_methods("unlearning:share=0.3").values()
    assert method == Unlearning(fraction=0.3)
    with pytest.raises(ConfigError, match="unlearning has fraction twice, expected once"):
        parse_backdoor_methods("unlearning:share=0.3,fraction=0.2")


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("antidote", r"learns from images with the trigger; give --poisoned DIR"),
        ("evidence", r"needs the maps of a trained explainer \(--explainer RUN\)"),
        ("unlearning", "needs a trigger; name neural_cleanse among the methods"),
        ("clean", "expected some of neural_cleanse, strip"),
    ],
)
def test_methods_without_what_they_need(
    planted: Classifier, tmp_path: Path, methods: str, message: str
) -> None:
    images, labels = make_images(40)
    with pytest.raises(ConfigError, match=message):
        find_backdoors(planted, MemoryImages(images, labels), tmp_path, methods)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_search_takes_gradients_in_any_mode(mode: Any, tmp_path: Path) -> None:
    source = MemoryImages(*make_images(40))
    with mode():
        result = find_backdoors(
            open_network(PlantedNetwork(), CLASSES),
            source,
            tmp_path,
            "neural_cleanse:steps=2,fine_pruning:steps=2",
        )
    assert len(result.classes) == CLASSES and result.removals


def test_images_that_cannot_be_read_are_left_out(
    planted: Classifier, damage_images: Any, tmp_path: Path
) -> None:
    images, labels = make_images(60)
    source, lines = MemoryImages(images, labels), list[str]()
    clean, suspects = damage_images(source, {0, 30, 59}), damage_images(source, {1})
    with redirect_warnings(lines.append):
        result = find_backdoors(planted, clean, tmp_path, "strip", suspects=suspects)
    assert result.runtime[0].checked == 59
    assert lines == [
        f"memory: {count} of 60 images cannot be read and are left out, the first because "
        f"{first}.png: damaged or cut short"
        for count, first in ((3, lines[0].split("because ")[1].partition(".")[0]), (1, 1))
    ]
    content = json.loads((tmp_path / "backdoors.json").read_text())
    assert content["left_out"] == {"memory": ["0.png", "30.png", "59.png", "1.png"]}
    whole = damage_images(source, range(60))
    for one, other in ((whole, None), (source, whole)):
        with pytest.raises(ImageError, match=r"^\d+.png: damaged or cut short$"):
            find_backdoors(planted, one, tmp_path / "none", "strip", suspects=other)
    with pytest.raises(ImagesError, match=r"at least 40 clean images .* got 39"):
        find_backdoors(planted, damage_images(source, range(21)), tmp_path / "few", "strip")


def test_searches_with_too_little(planted: Classifier, tmp_path: Path) -> None:
    images, labels = make_images(60)
    with pytest.raises(ImagesError, match="at least 40 clean images to learn from and to measure"):
        find_backdoors(planted, MemoryImages(images[:20], labels[:20]), tmp_path, "strip")
    with pytest.raises(ImagesError, match="has no labels, and a test bed or a removal needs them"):
        find_backdoors(planted, MemoryImages(images, None), tmp_path, "fine_pruning")
    black_box = open_classifier(
        lambda batch: PlantedNetwork()(torch.as_tensor(batch)).detach(),
        size=SIDE,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    for methods in ("neural_cleanse", "fine_pruning"):
        with pytest.raises(ClassifierError, match=r"needs gradients|needs the layers"):
            find_backdoors(black_box, MemoryImages(images, labels), tmp_path, methods)
    assert find_backdoors(black_box, MemoryImages(images, labels), tmp_path, None).runtime


@pytest.mark.parametrize(
    ("card", "methods", "message"),
    [
        ({"output": "logits", "classes": ["a", "b"]}, "strip,neural_cleanse", "at least 3 classes"),
        ({"output": "value", "classes": ["size"], "value_range": (0, 1)}, "strip", "a value"),
        ({"output": "sigmoid", "classes": ["a", "b"]}, "strip", "several classes at once"),
    ],
)
def test_classifiers_that_predict_no_class_of_several_are_refused(
    card: dict[str, Any], methods: str, message: str, tmp_path: Path
) -> None:
    """Before an image is read."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, len(card["classes"])))
    classifier = open_classifier(network, size=SIDE, **card)
    images = MemoryImages(*make_images(1))
    with pytest.raises(ClassifierError, match=message):
        find_backdoors(classifier, images, tmp_path, methods)
