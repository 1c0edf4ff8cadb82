"""Explanations in Python: the same numbers and files as the command line, for every input."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from apercu import MaskExplainer, read_picture
from apercu.classifiers import Classifier
from apercu.classifiers.names import ClassNames
from apercu.cli.root import app
from apercu.errors import ConfigError, ImageError, TargetError
from apercu.explain import (
    CounterpartExplanation,
    ExplainOptions,
    ExplainRun,
    Explanation,
    MaskExplanation,
    NamedClass,
    StoredImage,
    TargetSelector,
    select_images,
)
from apercu.explain.explanation import format_percent
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
from apercu.explainers.kind import find_kind
from apercu.explainers.latent.settings import LATENT_PRESETS
from apercu.log import redirect_warnings


def _read_record(explanation: Explanation, folder: Path) -> dict[str, Any]:
    """Save an explanation, and return what the only entry of the record says about it."""
    content = json.loads((explanation.save(folder) / "explain.json").read_text())
    return content["images"][-1]["answers"][0]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "cat.png"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module", params=["counterpart", "latent"])
def changing(request: pytest.FixtureRequest, classifier: Classifier) -> TrainedExplainer[Any, Any]:
    """An untrained explainer of each kind that changes images, whose changes are visible."""
    settings = {
        "counterpart": COUNTERPART_PRESETS.parse({"generators": {"width": 16, "resolution": 4}}),
        "latent": LATENT_PRESETS.parse(
            {
                "shape": {"side": 32, "code": 8, "width": 8, "reader": 16},
                "path": {"steps": 20, "evidence": [3.0, 30.0]},
            }
        ),
    }[request.param]
    info = ClassifierInfo.from_classifier(classifier)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = find_kind(request.param).build_network(
            settings, info, classifier, pretrained=False
        )
        if request.param == "counterpart":
            for head in (network.decoder.similar, network.decoder.adversarial):
                head.last.weight.data.normal_(0, 3)
    return find_kind(request.param).explainer(network, info, settings, {})


def test_every_form_of_an_image_has_the_same_explanation(
    explainer: MaskExplainer, photo: Path
) -> None:
    picture, image = read_picture(photo), Image.open(photo)
    expected = explainer.attribute(explainer.prepare(picture)[None], "dots")[0]
    forms: list[Any] = [photo, str(photo), image, np.asarray(image), picture, picture[None]]
    forms.append(np.asarray(image).astype(np.float32) / 255)
    for form in forms:
        explanation = explainer.explain(form, target="dots")
        assert isinstance(explanation, MaskExplanation)
        torch.testing.assert_close(explanation.mask, expected, msg=type(form).__name__)
        assert torch.equal(explanation.image, picture)
        assert (explanation.target.index, explanation.target.name) == (1, "dots")
    assert explainer.explain(photo, target=1).target.name == "dots"


def test_the_class_is_the_predicted_one_and_the_classifier_knows_its_probability(
    explainer: MaskExplainer, classifier: Classifier, photo: Path
) -> None:
    images = explainer.prepare(read_picture(photo))[None]
    own = explainer.explain(photo)
    assert own.target == own.predicted and own.target.index == int(explainer.predict(images))
    assert own.probability is None
    of_classifier = explainer.explain(photo, target="rings", classifier=classifier)
    probabilities = classifier(images).softmax(1)[0]
    assert of_classifier.predicted is not None
    assert of_classifier.predicted.index == int(probabilities.argmax())
    assert of_classifier.probability == pytest.approx(float(probabilities[2]))
    assert of_classifier.read_by == "classifier" and of_classifier.estimated_probability is None


def test_an_estimate_of_the_explainer_is_no_probability_of_the_classifier(
    explainer: MaskExplainer, photo: Path, tmp_path: Path
) -> None:
    estimated = explainer.estimate_logits(explainer.prepare(read_picture(photo))[None]).softmax(1)
    first, second, _ = estimated[0].argsort(descending=True).tolist()
    explanation = explainer.explain(photo, target=second)
    assert (explanation.probability, explanation.read_by) == (None, "explainer")
    assert explanation.estimated_probability == pytest.approx(float(estimated[0, second]))
    record = _read_record(explanation, tmp_path)
    assert (record["probability"], record["read_by"]) == (None, "explainer")
    assert record["estimated_probability"] == pytest.approx(float(estimated[0, second]), abs=1e-6)
    assert (record["predicted_class"]["index"], record["runner_up"]["index"]) == (first, second)
    assert record["predicted_class"]["probability"] is None
    assert record["predicted_class"]["estimated_probability"] > record["estimated_probability"]
    captions = [tile.caption for tile in explanation.make_tiles("cat")]
    assert ", ~ " in captions[1] and "predicted: " in captions[1]
    assert "estimated_probability=0." in repr(explanation)


def test_probability_and_runner_up_are_the_classifiers(
    explainer: MaskExplainer, classifier: Classifier, photo: Path, tmp_path: Path
) -> None:
    explanation = explainer.explain(photo, classifier=classifier)
    probabilities = classifier(explainer.prepare(read_picture(photo))[None]).softmax(1)[0]
    first, second, _ = probabilities.argsort(descending=True).tolist()
    assert explanation.runner_up is not None and explanation.runner_up.index == second
    record = _read_record(explanation, tmp_path)
    assert (record["target"], record["read_by"]) == (first, "classifier")
    assert record["probability"] == pytest.approx(float(probabilities[first]), abs=1e-6)
    assert record["predicted_class"]["probability"] == record["probability"]
    assert record["runner_up"] == {
        "index": second,
        "class": explainer.classes[second],
        "probability": pytest.approx(float(probabilities[second]), abs=1e-6),
    }
    caption = explanation.make_tiles("cat")[1].caption
    assert caption == (
        f"{explainer.classes[first].partition(',')[0]}, {float(probabilities[first]):.1%}\n"
        f"then {explainer.classes[second].partition(',')[0]}, {float(probabilities[second]):.1%}"
    )


def test_the_area_of_the_region_is_not_the_mean_of_the_mask() -> None:
    mask = torch.full((4, 4), 0.25)
    mask[0, :3] = 0.75
    stored, target = StoredImage(torch.rand(3, 8, 8)), NamedClass(0, "a")
    for level, area in ((0.5, 3 / 16), (0.2, 1.0), (0.9, 0.0)):
        explanation = MaskExplanation(stored, target, mask, level)
        assert (explanation.area, explanation.region_area) == (0.34375, area)
        record = explanation.describe()
        assert (record["area"], record["region_area"]) == (0.34375, area)
    caption = explanation.make_tiles("cat")[2].caption
    assert caption == "no region\nat level 0.9"


def test_the_pictures_fit_the_mask_and_the_box(explainer: MaskExplainer, photo: Path) -> None:
    explanation = explainer.explain(photo, level=0.3)
    assert isinstance(explanation, MaskExplanation)
    assert explanation.mask.shape == (32, 32) and torch.equal(explanation.map, explanation.mask)
    assert (
        explanation.overlay().size
        == explanation.kept().size
        == explanation.removed().size
        == (60, 40)
    )
    if explanation.box is not None:
        xmin, ymin, xmax, ymax = explanation.box
        assert 0 <= xmin < xmax <= 60 and 0 <= ymin < ymax <= 40
        crop = explanation.crop()
        assert crop is not None and crop.size == (xmax - xmin, ymax - ymin)
    assert explanation._repr_png_().startswith(b"\x89PNG")
    assert repr(explanation).startswith("MaskExplanation('cat.png', target='")


def test_saving_writes_the_files_of_the_command_line(
    explainer: MaskExplainer, tiny_run: Path, photo: Path, tmp_path: Path
) -> None:
    words = ["explain", tiny_run, photo, "--target", "dots", "--out", tmp_path / "command"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    explainer.explain(photo, target="dots").save(tmp_path / "python")
    names = {path.name for path in (tmp_path / "command").iterdir()}
    assert names == {path.name for path in (tmp_path / "python").iterdir()}
    for name in names:
        assert (tmp_path / "command" / name).read_bytes() == (
            tmp_path / "python" / name
        ).read_bytes(), name


def test_several_explanations_share_a_folder(
    explainer: MaskExplainer, photo: Path, tmp_path: Path
) -> None:
    other = photo.with_name("dog.png")
    other.write_bytes(photo.read_bytes())
    for path in (photo, other, photo):
        explainer.explain(path).save(tmp_path / "o")
    images = json.loads((tmp_path / "o" / "explain.json").read_text())["images"]
    assert [entry["image"] for entry in images] == ["dog.png", "cat.png"]


@pytest.mark.parametrize("count", [1, 2])
def test_all_classes_are_explained_as_by_the_command(
    explainer: MaskExplainer, photo: Path, tmp_path: Path, count: int
) -> None:
    photos = [photo, photo.with_name("dog.png")][:count]
    Image.open(photo).rotate(90).save(photo.with_name("dog.png"))
    options = ExplainOptions("all", 2)
    refs = select_images(photos, explainer.classifier_info.input)
    ExplainRun(explainer, options).write(refs, tmp_path / "a", lambda *_: None, str)
    given: Any = photos[0] if count == 1 else photos
    explanations = explainer.explain(given, "all", top=2)
    assert len(explanations) == 2 * count
    assert [each.target.index for each in explanations[:2]] == [
        each.target.index for each in explainer.explain(photo, "all")[:2]
    ]
    explanations.save(tmp_path / "b")
    files = {path.name for path in (tmp_path / "a").iterdir() if "sheet" not in path.name}
    assert {path.name for path in (tmp_path / "b").iterdir()} == files
    records = [json.loads((tmp_path / name / "explain.json").read_text()) for name in "ab"]
    assert records[0]["images"] == records[1]["images"]


def test_pages_and_files_of_one_stem_keep_files_of_their_own(
    explainer: MaskExplainer, photo: Path, tmp_path: Path
) -> None:
    """Page 3 had written over the files of page 2, and both stood in explain.json."""
    page = Image.open(photo).convert("RGB")
    scan = tmp_path / "scan.tif"
    page.save(scan, save_all=True, append_images=[page.rotate(90), page.rotate(180)])
    for suffix in (".png", ".bmp"):
        page.save(tmp_path / f"scan{suffix}")
    names = [f"{scan}#2", f"{scan}#3", tmp_path / "scan.png", tmp_path / "scan.bmp", f"{scan}#2"]
    for name in names:
        explainer.explain(name).save(tmp_path / "o")
    images = json.loads((tmp_path / "o" / "explain.json").read_text())["images"]
    maps = {entry["image"]: entry["answers"][0]["files"]["map"] for entry in images}
    assert maps == {
        "scan.tif#2": "scan-2.map.npy",
        "scan.tif#3": "scan-3.map.npy",
        "scan.png": "scan.map.npy",
        "scan.bmp": "scan-4.map.npy",
    }
    for name in (f"{scan}#3", f"{scan}#2"):
        stored = np.load(tmp_path / "o" / maps[Path(name).name])
        assert np.array_equal(stored, explainer.explain(name).map.numpy().astype(stored.dtype))
    with pytest.raises(ImageError, match=r"got 3; name one of them as .*scan.tif#ID"):
        explainer.explain(scan)


def test_counterparts_show_the_image_as_the_runner_up(
    changing: TrainedExplainer[Any, Any], classifier: Classifier, photo: Path, tmp_path: Path
) -> None:
    explanation = changing.explain(photo, classifier=classifier)
    assert isinstance(explanation, CounterpartExplanation)
    images = changing.prepare(read_picture(photo))[None]
    logits = classifier(images)
    predicted, runner_up = logits[0].argsort(descending=True)[:2].tolist()
    assert explanation.predicted is not None
    assert (explanation.predicted.index, explanation.target.index) == (predicted, runner_up)
    pair = changing.counterparts(images, runner_up, logits=logits)  # type: ignore[attr-defined]
    torch.testing.assert_close(explanation.stable, pair.stable[0])
    torch.testing.assert_close(explanation.adversarial, pair.adversarial[0])
    torch.testing.assert_close(explanation.map, pair.maps[0])
    assert torch.equal(explanation.similar, explanation.stable) and explanation.mask.shape == (
        32,
        32,
    )
    own = changing.explain(photo)
    assert isinstance(own, CounterpartExplanation) and own.probabilities == ()
    assert (own.flipped is None) is (own.read_by == "explainer")
    expected = classifier(explanation.strip).softmax(1)[:, runner_up]
    assert explanation.probabilities == pytest.approx(expected.tolist(), abs=1e-6)
    assert explanation.probability == pytest.approx(float(logits.softmax(1)[0, runner_up]))
    explanation.save(tmp_path / "o")
    [image] = json.loads((tmp_path / "o" / "explain.json").read_text())["images"]
    [record] = image["answers"]
    assert set(record["files"]) >= {"map", "similar", "adversarial", "difference", "strip"}
    assert (image["width"], image["height"]) == (60, 40)
    assert explanation._repr_png_().startswith(b"\x89PNG") and explanation.overlay().size == (
        32,
        32,
    )


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["ü", "ü"], "image: ü (0) (30 %), then ü (1) (27 %)"),
        (["car, red", "car, blue"], "image: car, red (30 %), then car, blue (27 %)"),
        (["tabby, tabby cat", "hen, red"], "image: tabby (30 %), then hen (27 %)"),
    ],
)
def test_lines_and_captions_tell_classes_apart(names: list[str], line: str) -> None:
    first, second = (NamedClass.of(ClassNames.of(names), index) for index in (0, 1))
    mask, shares = torch.ones(8, 8), torch.tensor([0.3, 0.27])
    stored = StoredImage(torch.rand(3, 8, 8))
    explanation = MaskExplanation(
        stored,
        first,
        mask,
        predicted=first,
        runner_up=second,
        class_probabilities=shares,
        read_by="classifier",
    )
    assert explanation.line == line
    assert f"target={first.short_name!r}" in repr(explanation)
    assert explanation.make_tiles("")[1].caption == (
        f"{first.short_name}, 30.0%\nthen {second.short_name}, 27.0%"
    )


@pytest.mark.parametrize("flips", [True, False])
def test_the_classifier_says_whether_the_class_was_flipped(flips: bool, tmp_path: Path) -> None:
    image, other = torch.full((3, 32, 32), 0.5), torch.full((3, 32, 32), 0.5002)
    cat, dog = NamedClass(0, "cat"), NamedClass(1, "dog")
    explanation = CounterpartExplanation(
        StoredImage(image),
        dog,
        image,
        torch.stack([image, other]),
        (0.2, 0.9 if flips else 0.4),
        (cat, dog if flips else cat),
        predicted=cat,
    )
    assert (explanation.kept, explanation.flipped) == (True, flips)
    record = _read_record(explanation, tmp_path)
    assert (record["kept"], record["flipped"]) == (True, flips)
    assert record["strip_classes"] == ["cat", "dog" if flips else "cat"]
    captions = [tile.caption for tile in explanation.make_tiles("image")]
    last = "90.0%\npredicted: dog" if flips else "40.0%\nNOT FLIPPED: cat"
    assert captions[2] == f"adversarial: dog, {last}"
    assert captions[3] == "no visible change (< 1/255)"
    assert (", but seen as cat" in explanation.capture_description) is not flips
    unchanged = CounterpartExplanation(StoredImage(image), dog, image, image[None])
    assert explanation.overlay().tobytes() == unchanged.overlay().tobytes()
    assert (unchanged.kept, unchanged.flipped) == (None, None)
    assert unchanged.capture_description.endswith("seen as dog (not checked)")
    assert unchanged.make_tiles("image")[2].caption.endswith("not checked: no classifier")


def test_counterparts_that_do_not_flip_are_counted(
    changing: TrainedExplainer[Any, Any], classifier: Classifier, tmp_path: Path
) -> None:
    refs = select_images(["planted:size=32,images=2"], changing.classifier_info.input)
    lines: list[str] = []
    run = ExplainRun(changing, ExplainOptions(), classifier)
    run.write(refs, tmp_path, lambda done, total: None, lines.append)
    images = json.loads((tmp_path / "explain.json").read_text())["images"]
    failed = 0
    for entry, ref in zip(images, refs, strict=True):
        [answer] = entry["answers"]
        picture = changing.prepare(ref.read_image().picture)[None]
        pair = changing.counterparts(  # type: ignore[attr-defined]
            picture, answer["target"], logits=classifier(picture)
        )
        predicted = int(classifier(pair.adversarial).argmax())
        assert answer["flipped"] is (predicted == answer["target"])
        failed += not answer["flipped"]
    expected = f"{failed} of 2 counterparts are not predicted as their target: flipped is false in "
    assert lines == ([f"{expected}{tmp_path / 'explain.json'}"] if failed else [])


def test_what_cannot_be_explained_is_refused(
    explainer: MaskExplainer, changing: TrainedExplainer[Any, Any], photo: Path
) -> None:
    with pytest.raises(TargetError, match="no class is called 'dotts'; did you mean dots"):
        explainer.explain(photo, target="dotts")
    with pytest.raises(ConfigError, match="top: only the targets all and predicted show several"):
        explainer.explain(photo, top=2)
    with pytest.raises(ConfigError, match="top: expected at least 1 class"):
        explainer.explain(photo, target="all", top=0)
    with pytest.raises(ConfigError, match="level: expected a number above 0"):
        explainer.explain(photo, level=1.0)
    photo.with_name("dog.png").write_bytes(photo.read_bytes())
    with pytest.raises(ImageError, match="expected one image, got 2"):
        explainer.explain(photo.parent)
    with pytest.raises(ImageError, match=r"expected an array height × width × channels, got 4"):
        explainer.explain(np.zeros(4, np.float32))
    predicted = changing.explain(photo).predicted
    assert predicted is not None
    with pytest.raises(TargetError, match="already; choose another class"):
        changing.explain(photo, target=predicted.index)
    with pytest.raises(
        ConfigError, match="only masks have a level, and this explainer makes counterparts"
    ):
        changing.explain(photo, level=0.3)


def test_a_class_called_as_a_word_of_the_target_is_told(explainer: MaskExplainer) -> None:
    words = ("stripes", "top", "rings")
    named = {"classes": words, "identifiers": words}
    renamed = copy.copy(explainer)
    renamed.classifier_info = explainer.classifier_info.model_copy(update=named)
    lines: list[str] = []
    with redirect_warnings(lines.append):
        TargetSelector(renamed, ExplainOptions())
        assert not lines
        TargetSelector(renamed, ExplainOptions("top"))
        TargetSelector(renamed, ExplainOptions("all"))
    assert lines == [
        "target: top has a meaning of its own here, and there is also a class of this name; "
        "for the class give its index, 1"
    ]


def test_a_class_called_by_the_index_of_another_is_told(explainer: MaskExplainer) -> None:
    words = ("0", "2", "1")
    renamed = copy.copy(explainer)
    renamed.classifier_info = explainer.classifier_info.model_copy(
        update={"classes": words, "identifiers": words}
    )
    lines: list[str] = []
    with redirect_warnings(lines.append):
        assert TargetSelector(renamed, ExplainOptions("0")).index == 0
        assert TargetSelector(renamed, ExplainOptions(2)).index == 2
        assert not lines
        assert TargetSelector(renamed, ExplainOptions("2")).index == 1
    (line,) = lines
    assert line.startswith("target: 2 is the name of class 1; names have priority")


OWN_RUN = Path(__file__).parents[1] / "golden" / "runs" / "mask-own"
"""A run whose encoder is the classifier itself."""


def _count_passes(network: torch.nn.Module) -> list[int]:
    """Returns a list that grows by one with each pass of the first convolution of a network."""
    passes: list[int] = []
    first = next(part for part in network.modules() if isinstance(part, torch.nn.Conv2d))
    first.register_forward_hook(lambda *_: passes.append(1))
    return passes


@pytest.mark.parametrize("is_own", [True, False])
def test_each_image_goes_once_through_the_encoder(tiny_run: Path, is_own: bool) -> None:
    explainer = MaskExplainer.from_pretrained(OWN_RUN if is_own else tiny_run)
    assert (explainer.own_classifier is not None) == is_own
    channels = explainer.classifier_info.input.channels
    pictures = torch.rand(3, channels, 50, 70, generator=torch.Generator().manual_seed(0))
    images = torch.stack([explainer.prepare(picture) for picture in pictures])
    classes = torch.arange(len(explainer.classes)).expand(len(images), -1)
    masks = explainer.attribute_classes(images, classes)
    own = explainer.own_classifier
    logits = explainer.estimate_logits(images) if own is None else own(images)
    probabilities = explainer.classifier_info.decision.probabilities(logits)
    passes = _count_passes(explainer.network)
    run = ExplainRun(explainer, ExplainOptions("all"))
    for row, picture in enumerate(pictures):
        explanations = list(run.explain(StoredImage(picture)))
        assert len(explanations) == len(explainer.classes)
        for explanation in explanations:
            expected = masks[row, explanation.target.index]
            torch.testing.assert_close(explanation.mask, expected, atol=1e-5, rtol=0)
            share = explanation.find_probability(explanation.target)
            assert share == pytest.approx(
                float(probabilities[row, explanation.target.index]), abs=1e-5
            )
    assert len(passes) == len(pictures)


def test_the_command_says_what_is_predicted_of_each_image_or_how_often(
    tiny_run: Path, explainer: MaskExplainer, photo: Path, tmp_path: Path
) -> None:
    def run(*words: str) -> list[str]:
        command = ["explain", str(tiny_run), *words, "--out", str(tmp_path / "maps")]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        return [line for line in result.stdout.splitlines() if line]

    explanation = explainer.explain(photo)
    first, second = explanation.predicted, explanation.runner_up
    assert first is not None and second is not None
    shares = [format_percent(explanation.find_probability(one) or 0) for one in (first, second)]
    line = "cat.png: {} (~{}), then {} (~{})"
    expected = line.format(first.short_name, shares[0], second.short_name, shares[1])
    out = f"1 image explained: {tmp_path / 'maps'}"
    spec = explainer.classifier_info.spec
    advice = f"~ is what the explainer estimates; --classifier {spec} gives the classifier's own"
    assert run(str(photo)) == [expected, advice, out]
    assert run(str(photo), "--target", "all")[0].endswith("; 3 classes explained")
    other = next(name for name in explainer.classes if first.name != name).partition(",")[0]
    assert f"; explained: {other} (~" in run(str(photo), "--target", other)[0]
    for number in range(20):
        (photo.parent / f"copy-{number}.png").write_bytes(photo.read_bytes())
    lines = run(str(photo.parent))
    assert len(lines) == 23
    assert lines[-3:] == [
        f"21 images: 21 × {first.short_name}",
        advice,
        out.replace("1 image", "21 images"),
    ]
