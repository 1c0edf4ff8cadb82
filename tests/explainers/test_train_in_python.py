"""`apercu.train` and `apercu.load_explainer`, and images as people hand them over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import apercu
from apercu.classifiers import (
    Classifier,
    ClassifierCard,
    InputSpec,
    StudentSettings,
    save_classifier,
    wrap_module,
)
from apercu.classifiers.outputs import OutputName
from apercu.errors import ClassifierError, ConfigError, ImageError, RunError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.encoder import choose_encoder
from apercu.explainers.kind import KIND_NAMES, find_kind
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.settings import ExplainerSettings
from apercu.explainers.student import open_student

PLANTED = "planted:size=32,images=24,classes=3,difficulty=0"
SETTINGS: dict[str, dict[str, Any]] = {
    "mask": {"preset": "small", "decoder": {"width": 16}, "embedding": {"steps": 2, "batch": 4}},
    "counterpart": {"generators": {"width": 16, "resolution": 4}},
    "latent": {
        "shape": {"side": 32, "code": 8, "width": 8, "reader": 16},
        "path": {"steps": 20, "evidence": [3.0, 30.0]},
    },
}


class Colours:
    """A plain callable: the mean of each colour decides."""

    input = {"size": [32, 32]}  # noqa: RUF012
    classes = ("red", "green", "blue")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return 20 * images.mean((2, 3))


def train(classifier: object, out: Path, **options: Any) -> Any:
    options = {"kind": "mask", "steps": 2, "batch": 4, "device": "cpu", **options}
    options.setdefault("config", SETTINGS.get(options["kind"]))
    options.setdefault("say", lambda line: None)
    return apercu.train(classifier, PLANTED, out, **options)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_kind_is_trained_and_opened_again(kind: str, tiny_card: Path, tmp_path: Path) -> None:
    explainer = train(str(tiny_card), tmp_path / "run", kind=kind, workers=0)
    assert explainer.kind == kind and type(explainer) is find_kind(kind).explainer
    assert explainer.facts["steps"] == 2
    again = apercu.load_explainer(tmp_path / "run")
    images = torch.rand(2, 3, 32, 32)
    assert type(again) is type(explainer)
    torch.testing.assert_close(again(images, "dots"), explainer.attribute(images, 1))
    assert again.classes == ("stripes, bands", "dots", "rings")
    assert torch.equal(again.predict(images), again.predict_logits(images).argmax(1))
    order = json.loads((tmp_path / "run" / "order.json").read_text())
    assert order["images"].startswith("planted:")
    assert (order["count"], order["seed"]) == (24, 0)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_kind_says_what_it_is(kind: str) -> None:
    record = find_kind(kind)
    settings = next(iter(record.presets.presets.values()))
    assert record.name == record.explainer.kind == settings.explainer == kind
    assert isinstance(settings, ExplainerSettings) and type(settings) is record.presets.model
    assert kind in record.describe(settings).title.lower()


def test_objects_are_taken_as_well_as_their_names(tiny_card: Path, tmp_path: Path) -> None:
    classifier, images = apercu.open_classifier(tiny_card), apercu.open_images(PLANTED)
    settings = find_kind("mask").presets.parse(SETTINGS["mask"])
    explainer = apercu.train(
        classifier, images, tmp_path, config=settings, steps=2, device="cpu", say=lambda line: None
    )
    by_name = train(str(tiny_card), tmp_path / "other", batch=None)
    shown = torch.rand(1, 3, 32, 32)
    assert torch.equal(explainer(shown), by_name(shown))


def test_a_begun_training_is_continued_on_request(
    tiny_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    card = str(tiny_card)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("apercu.explainers.mask.levels.measure_levels", stop)
        train(card, tmp_path)
    with pytest.raises(RunError, match="continue it with --resume"):
        train(card, tmp_path)
    with pytest.raises(RunError, match=r"had schedule\.batch \d+, now 3"):
        train(card, tmp_path, batch=3, resume=True)
    same = str(tiny_card.parent / ".." / tiny_card.parent.name / tiny_card.name)
    explainer = train(same, tmp_path, config=None, steps=None, batch=None, resume=True)
    assert explainer.facts["steps"] == 2  # whatever the classifier is called; it is the same
    with pytest.raises(RunError, match="holds a finished training"):
        train(card, tmp_path, resume=True)


def test_a_training_is_extended_twice_with_the_settings_it_began_with(
    tiny_card: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the fit is left out; its result is an empty file, and another explainer is returned."""
    explainer = apercu.load_explainer(tiny_run)

    def skip_fit(*_: object) -> TrainedExplainer[Any, Any]:
        (tmp_path / "weights.safetensors").touch()
        return explainer

    monkeypatch.setattr("apercu.explainers.train._fit", skip_fit)
    config = {**SETTINGS["mask"], "embedding": {"steps": 1100, "batch": 4}}
    card = str(tiny_card)
    train(card, tmp_path, config=config)
    for steps in (3, 4):
        train(card, tmp_path, config=config, steps=steps, resume=True)
    train(card, tmp_path, config=None, steps=5, batch=None, resume=True)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert (settings["schedule"]["steps"], settings["embedding"]["steps"]) == (5, 2)
    other = {**config, "embedding": {"steps": 11000, "batch": 4}}
    with pytest.raises(RunError, match=r"had embedding\.steps 2, now 20"):
        train(card, tmp_path, config=other, steps=6, resume=True)


def test_a_black_box_is_explained_through_a_student(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    explainer = train(
        f"{__name__}:Colours",
        tmp_path,
        student=StudentSettings(steps=5, width=4, floor=0.0),
        report=lambda *done: seen.append(done),
        config={**SETTINGS["mask"], "encoder": "own", "frozen": True},
    )
    assert explainer.classifier_info.spec == f"{__name__}:Colours"
    assert 0 <= explainer.facts["student_agreement"] <= 1
    assert any(one[1:] == (5, 5) for one in seen if "student" in one[0])
    assert (tmp_path / "student" / "card.json").is_file()
    assert apercu.load_explainer(tmp_path).facts == explainer.facts


def test_the_price_of_a_student_is_said_and_its_steps_are_chosen(tmp_path: Path) -> None:
    lines: list[str] = []
    spec = f"{__name__}:Colours"
    explainer = train(spec, tmp_path / "a", student_steps=3, say=lines.append)
    (price,) = (line for line in lines if "gives no gradients" in line)
    assert "48 queries of the classifier and 3 steps of 24 images, about " in price
    assert "--student-steps" in price
    assert 0 <= explainer.facts["student_agreement"] <= 1
    lines.clear()
    earlier = tmp_path / "a" / "student" / "card.json"
    again = train(spec, tmp_path / "b", student=str(earlier), say=lines.append)
    (line,) = (line for line in lines if "gives no gradients" in line)
    assert f"{earlier} stands in for it" in line and "queries" not in line
    assert 0 <= again.facts["student_agreement"] <= 1
    assert not (tmp_path / "b" / "student").exists()


def test_the_chosen_steps_of_a_student_are_kept(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student is interrupted, then finished; the explainer's own fit is left out."""
    spec, explainer = f"{__name__}:Colours", apercu.load_explainer(tiny_run)
    monkeypatch.setattr("apercu.explainers.train._fit", lambda *_: explainer)
    monkeypatch.setattr("apercu.explainers.student.estimate_seconds", lambda *_: 1.0)
    asked: list[StudentSettings] = []

    def stop(*arguments: Any) -> None:
        asked.append(arguments[3])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("apercu.explainers.student.distil_student", stop)
        for options in ({"student_steps": 3}, {"resume": True}, {"resume": True, "steps": 4}):
            with pytest.raises(KeyboardInterrupt):
                train(spec, tmp_path, seed=2, **options)
    assert asked == 3 * [StudentSettings(steps=3, floor=0.0, seed=2)]
    train(spec, tmp_path, seed=2, steps=4, resume=True)
    lines: list[str] = []
    more = {"seed": 2, "steps": 4, "resume": True, "say": lines.append}
    for again in ({}, {"student_steps": 3}):
        train(spec, tmp_path, **more, **again)
        assert "student: the finished student of this run is used" in lines
        lines.clear()
    other = StudentSettings(steps=3, width=4)
    with pytest.raises(RunError, match="the student here had steps 3, now 16000; leave it out"):
        train(spec, tmp_path, **more, student_steps=16000)
    with pytest.raises(RunError, match="the student here had width 16, now 4"):
        train(spec, tmp_path, **more, student=other)
    facts = json.loads((tmp_path / "student" / "facts.json").read_text())
    assert (facts["settings"]["steps"], facts["settings"]["seed"]) == (3, 2)


def open_small(
    classes: tuple[str, ...] = Colours.classes, output: OutputName = "logits", **input: Any
) -> Classifier:
    card = ClassifierCard(
        source="tests:small",
        input=InputSpec(size=(32, 32), **input),
        classes=classes,
        output=output,
    )
    return wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)), card)


@pytest.mark.parametrize(
    ("student", "match"),
    [
        ({"output": "sigmoid"}, "expected output with one class of an image is true, got each"),
        ({"classes": ("red", "blue", "green")}, "expected class 1 to be 'green', got 'blue'"),
        ({"normalise": "l2_per_channel"}, "expected normalise None, got l2_per_channel"),
        (
            {"stretch": {"low": (0,) * 3, "high": (9,) * 3, "noise": (1,) * 3}},
            "expected stretch None, got",
        ),
    ],
    ids=["output", "classes", "counts", "stretch"],
)
def test_students_that_mean_something_else(student: dict[str, Any], match: str) -> None:
    classifier = apercu.open_classifier(f"{__name__}:Colours")
    with pytest.raises(ClassifierError, match=f"cannot stand in for .*: {match}"):
        open_student(open_small(**student), classifier)
    same = open_small(("Red, crimson", "green", "blue"), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert open_student(same, classifier) is same


def test_students_that_do_not_fit(tiny_card: Path, tmp_path: Path) -> None:
    spec = f"{__name__}:Colours"
    other = apercu.open_classifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)), size=32)
    with pytest.raises(ClassifierError, match=r"expected images of 3 × 32 × 32 and 3 classes.*5"):
        train(spec, tmp_path, student=other)
    with pytest.raises(ClassifierError, match="gives no gradients, and a student needs them"):
        train(spec, tmp_path, student=spec)
    with pytest.raises(
        ConfigError, match=r"expected none, as .* gives gradients itself; leave out --student"
    ):
        train(str(tiny_card), tmp_path, student_steps=3)
    with pytest.raises(
        ConfigError, match="so --student-steps has no effect; leave out one of the two"
    ):
        train(spec, tmp_path, student=open_small(), student_steps=3)
    with pytest.raises(ConfigError, match="a latent explainer needs none"):
        train(spec, tmp_path, kind="latent", student_steps=3)
    assert not list(tmp_path.iterdir())


def test_a_latent_explainer_needs_no_student(tmp_path: Path) -> None:
    explainer = train(f"{__name__}:Colours", tmp_path, kind="latent")
    assert "student_agreement" not in explainer.facts
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind": "maks", "config": None}, "did you mean mask?"),
        ({"config": "ligth"}, "did you mean light?"),
        ({"config": {"schedule": {"stesp": 1}}}, "did you mean steps?"),
        ({"precision": "8"}, "expected one of 32, bf16, 16"),
        ({"device": "tpu"}, "device: expected one of auto, cpu"),
        ({"kind": "latent", "config": None, "encoder": "small"}, "none to choose"),
        ({"kind": "latent", "config": find_kind("mask").presets.read("light")}, "kind='mask'"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    options: dict[str, Any], match: str, tiny_card: Path, tmp_path: Path
) -> None:
    options = {"config": None, **options}
    with pytest.raises(ConfigError, match=match.replace("?", r"\?")):
        train(str(tiny_card), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def explainer(tiny_run: Path) -> Any:
    return apercu.load_explainer(tiny_run)


def test_arrays_and_pillow_images_are_images(explainer: Any) -> None:
    array = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    images = torch.from_numpy(array).permute(0, 3, 1, 2) / 255
    expected = explainer(images, 1)
    pictures = [Image.fromarray(one) for one in array]
    for given in (array, array / 255.0, list(array), pictures, list(images)):
        torch.testing.assert_close(explainer(given, 1), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(explainer(pictures[1], 1), expected[1:], rtol=0, atol=1e-4)
    torch.testing.assert_close(explainer(array[1], 1), expected[1:], rtol=0, atol=1e-4)
    assert torch.equal(explainer.predict(pictures), explainer.predict(images))


def test_pictures_of_any_size_are_squashed(explainer: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    picture = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    expected = explainer(explainer.prepare(picture)[None])
    torch.testing.assert_close(explainer(Image.fromarray(pixels)), expected)
    grey = Image.fromarray(pixels).convert("L")
    torch.testing.assert_close(explainer(grey), explainer(grey.convert("RGB")))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([], "expected at least one"),
        (["cat.jpg"], "got str; open files with"),
        (np.zeros((2, 3, 32, 32, 1), np.uint8), "height × width × channels"),
        (np.zeros((32, 32, 3), np.int64), "expected uint8 or floats"),
        (np.zeros((32, 32, 4), np.uint8), "4"),
        (torch.zeros(1, 3, 16, 16), "expected batch × 3 × 32 × 32"),
        (np.full((32, 32, 3), 255.0), r"expected pixels in \[0, 1\]"),
    ],
)
def test_what_is_no_image_is_refused(given: Any, match: str, explainer: Any) -> None:
    with pytest.raises(ImageError, match=match):
        explainer(given)


def make_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A card of an exported program, which gives gradients but shows no layers."""
    network = apercu.open_classifier(make_convolutions(), size=32)
    return save_classifier(network, tmp_path / "program")


def test_a_black_box_gets_an_encoder(program: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    config = {key: value for key, value in SETTINGS["mask"].items() if key != "preset"}
    train(str(program), tmp_path / "run", config=config, workers=0, say=lines.append)
    (line,) = (line for line in lines if "encoder" in line)
    assert line.startswith(f"{program} gives no feature maps, so the encoder is small, trained")
    assert apercu.load_explainer(tmp_path / "run").settings.encoder == "small"


@pytest.mark.parametrize("options", [{"encoder": "own"}, {"config": {"encoder": "own"}}])
def test_an_encoder_that_was_named_is_not_replaced(
    options: dict[str, Any], program: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="does not show its layers; name another encoder"):
        train(str(program), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_the_best_encoder_at_hand_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    at_hand = {"resnet18": "a file", "mobilenetv2_100": "another"}
    monkeypatch.setattr("apercu.explainers.encoder.find_cached_weights", at_hand.get)
    lines: list[str] = []
    settings = choose_encoder(MASK_PRESETS.read(None), "boxed.pt2", lines.append)
    assert (settings.encoder, settings.frozen) == ("timm/resnet18", True)
    assert "the encoder is timm/resnet18, whose pretrained weights are at hand" in lines[0]


def test_masks_of_a_network_of_one_size_are_scored_at_that_size(tmp_path: Path) -> None:
    import timm

    module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3)
    classifier = apercu.open_classifier(module, size=32, mean=0.5, std=0.5)
    assert classifier.takes_size((32, 32)) and not classifier.takes_size((16, 16))
    lines: list[str] = []
    config = {"decoder": {"width": 16}, "schedule": {"side": 16}}
    train(classifier, tmp_path / "run", config=config, workers=0, say=lines.append)
    assert any("masks are scored at 32 × 32 pixels, not at 16 × 16" in line for line in lines)
    tiny = apercu.open_classifier(make_convolutions(), size=32)
    assert tiny.takes_size((16, 16))
