"""Similar cases: what is near, the region that finds the object, and the features that are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from apercu import MaskExplainer, find_similar, open_classifier, open_images
from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError, ImagesError, RunError, TargetError
from apercu.learning import case_index
from apercu.learning.case_features import CaseEncoder, open_case_encoder
from apercu.learning.case_index import CASES, SETTINGS, build_index
from apercu.learning.retrieval import CaseFinder, measure_distances
from apercu.learning.similar_cases import compute_chance
from apercu.networks.graph_encoder import GraphEncoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, objects: ModuleType) -> Path:
    return objects.write_objects(tmp_path_factory.mktemp("objects"), each=2)


@pytest.fixture(scope="module")
def classifier(objects: ModuleType) -> Classifier:
    return objects.make_classifier()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of every pass."""
    counts: list[int] = []
    encode = CaseEncoder.encode

    def count(encoder: CaseEncoder, images: torch.Tensor, targets: object = None) -> object:
        counts.append(len(images))
        return encode(encoder, images, targets)

    monkeypatch.setattr(CaseEncoder, "encode", count)
    return counts


def test_the_nearest_cases_by_region_share_the_class(classifier: Classifier, folder: Path) -> None:
    image = folder / "red" / "2-0.png"
    cases = find_similar(classifier, image, folder, count=5)
    assert cases.predicted is not None
    assert cases.predicted.name == "red"
    assert cases.by_region is not None
    assert [case.label for case in cases.by_region] == ["red"] * 5
    assert [case.predicted for case in cases.by_region] == ["red"] * 5
    distances = [case.distance for case in cases.by_region]
    assert distances == sorted(distances)
    assert "2-0.png: 5 of the 5 nearest cases by the explained region are labelled red" in str(
        cases.finding
    )
    assert cases.finding.lines[-1].mark == "clear"


def measure_precision(classifier: Classifier, folder: Path, count: int) -> tuple[float, float]:
    """Fraction of the nearest cases that share the class, by the whole image and by region."""
    encoder = open_case_encoder(classifier)
    source = open_images(folder)
    finder = CaseFinder(encoder, build_index(encoder, source))
    hits: list[tuple[float, float]] = []
    for item in source:
        cases = find_similar_in(finder, folder / item.name, count)
        hits.append(
            tuple(  # type: ignore[arg-type]
                float(np.mean([case.label == item.label for case in group or ()]))
                for group in (cases.by_features, cases.by_region)
            )
        )
    whole, region = np.mean(hits, 0)
    return float(whole), float(region)


def find_similar_in(finder: CaseFinder, path: Path, count: int):
    from apercu.explain.explain_images import read_image

    stored = read_image(path, finder.encoder.classifier.network.input)
    return finder.find(stored, count, exclude=path)


def test_the_region_finds_the_object_where_the_background_is_shared(
    classifier: Classifier, folder: Path
) -> None:
    """Of each image there is one of the same class on the same background, and two of others."""
    whole, region = measure_precision(classifier, folder, 4)
    assert region == 1.0
    assert whole < 0.6


def test_an_image_of_a_file_is_no_case_of_its_own(
    objects: ModuleType, classifier: Classifier, tmp_path: Path
) -> None:
    pixels = [objects.draw_object("green", background, 7) for background in range(3)]
    scan, stack = tmp_path / "scan.tif", tmp_path / "stack.npz"
    first, *others = map(Image.fromarray, pixels)
    first.save(scan, save_all=True, append_images=others)
    np.savez(stack, pixels=np.stack(pixels).transpose(0, 3, 1, 2), id=["a", "b", "c"])
    for image, among, left in (
        (f"{scan}#2", scan, {"scan.tif#1", "scan.tif#3"}),
        (f"{stack}#b", stack, {"a", "c"}),
    ):
        cases = find_similar(classifier, image, among)
        assert {case.name for case in cases.by_features} == left


def test_distances_are_one_less_the_cosine() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, generator=generator)
    cases = torch.nn.functional.normalize(torch.randn(7, 5, generator=generator), dim=1)
    literal = [
        1
        - sum(a * b for a, b in zip(features.tolist(), row, strict=True))
        / (sum(a * a for a in features.tolist()) ** 0.5 * sum(b * b for b in row) ** 0.5)
        for row in cases.tolist()
    ]
    assert torch.allclose(measure_distances(features, cases), torch.tensor(literal), atol=1e-6)


def test_small_distances_are_told_apart(classifier: Classifier, folder: Path) -> None:
    cases = find_similar(classifier, folder / "red" / "2-0.png", folder, count=2)
    pairs = zip(cases.by_features, (8e-5, 0.3), strict=True)
    near = tuple(replace(case, distance=distance) for case, distance in pairs)
    cases = replace(cases, by_features=near, by_region=None)
    assert [line.split()[0] for line in cases.lines[2:]] == ["0.00008", "0.300"]
    html = cases._repr_html_()
    assert "distance 0.00008" in html and "distance 0.300" in html


def test_chance_is_counted_over_all_ways_to_draw() -> None:
    from itertools import combinations

    marked = [True] * 4 + [False] * 5
    draws = [sum(draw) for draw in combinations(marked, 3)]
    for same in range(4):
        share = sum(count >= same for count in draws) / len(draws)
        assert compute_chance(same, 3, 4, 9) == pytest.approx(share)


def test_a_kept_index_costs_one_pass_of_the_image(
    objects: ModuleType, classifier: Classifier, folder: Path, tmp_path: Path, encoded: list[int]
) -> None:
    image = objects.draw_object("green", 1, 7)
    first = find_similar(classifier, image, folder, out=tmp_path)
    assert sum(encoded) == 24 + 1
    encoded.clear()
    again = find_similar(classifier, image, folder, out=tmp_path)
    assert encoded == [1]
    assert again.lines == first.lines
    kept = sorted(path.name for path in (tmp_path / "index").iterdir() if path.name != ".lock")
    assert kept == [CASES, SETTINGS]
    record = json.loads((tmp_path / "similar.json").read_text())
    assert record["cases"] == 24
    assert [case["label"] for case in record["by_region"]] == ["green"] * 6
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 2 + 6 + 6


def test_only_new_and_changed_images_are_computed(
    objects: ModuleType, classifier: Classifier, tmp_path: Path, encoded: list[int]
) -> None:
    folder, index = objects.write_objects(tmp_path / "images"), tmp_path / "index"
    encoder = open_case_encoder(classifier)
    build_index(encoder, open_images(folder), index)
    encoded.clear()
    Image.fromarray(objects.draw_object("red", 3, 5)).save(folder / "red" / "new.png")
    Image.fromarray(objects.draw_object("blue", 3, 5)).save(folder / "green" / "0-0.png")
    (folder / "blue" / "1-0.png").unlink()
    grown = build_index(encoder, open_images(folder), index)
    assert sum(encoded) == 2
    whole = build_index(encoder, open_images(folder))
    assert [case.name for case in grown.cases] == [case.name for case in whole.cases]
    assert torch.allclose(grown.features, whole.features)
    assert "blue/1-0.png" not in {case.name for case in grown.cases}


def test_an_interrupted_index_is_continued(
    classifier: Classifier,
    folder: Path,
    tmp_path: Path,
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(case_index, "BATCH", 5)
    encoder = open_case_encoder(classifier)

    def stop(name: str, done: int, total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(encoder, open_images(folder), tmp_path, stop)
    encoded.clear()
    index = build_index(encoder, open_images(folder), tmp_path)
    assert sum(encoded) == 24 - 10
    assert torch.allclose(index.features, build_index(encoder, open_images(folder)).features)


def test_an_index_belongs_to_one_classifier_and_one_explanation(
    objects: ModuleType, classifier: Classifier, folder: Path, tmp_path: Path, tiny_card: Path
) -> None:
    image = objects.draw_object("red", 0, 1)
    find_similar(classifier, image, folder, out=tmp_path)
    with pytest.raises(RunError, match=r"the index begun here had classifier .*, now"):
        find_similar(tiny_card, image, folder, out=tmp_path)
    with pytest.raises(RunError, match=r"the index begun here had region Cam\(\), now none"):
        find_similar(classifier, image, folder, method="none", out=tmp_path)
    with pytest.raises(RunError, match="the index begun here had images"):
        find_similar(classifier, image, folder / "red", out=tmp_path)


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_index_is_refused(
    objects: ModuleType, classifier: Classifier, folder: Path, tmp_path: Path, content: bytes
) -> None:
    image = objects.draw_object("red", 0, 1)
    find_similar(classifier, image, folder, out=tmp_path)
    (tmp_path / "index" / CASES).write_bytes(content)
    with pytest.raises(RunError, match="the index is damaged; remove its folder"):
        find_similar(classifier, image, folder, out=tmp_path)


def test_images_that_cannot_be_read_are_left_out(
    objects: ModuleType, classifier: Classifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = objects.write_objects(tmp_path / "images")
    (folder / "red" / "0-0.png").write_bytes(b"no picture")
    cases = find_similar(classifier, objects.draw_object("red", 0, 1), folder, count=50)
    assert len(cases.by_features) == 3 * objects.BACKGROUNDS - 1
    assert cases.record["left_out"] == 1
    assert "1 of 12 images cannot be read and are left out, the first because" in caplog.text


def test_an_image_is_no_case_of_its_own(classifier: Classifier, folder: Path) -> None:
    cases = find_similar(classifier, folder / "blue" / "1-1.png", folder, count=100)
    names = [case.name for case in cases.by_features]
    assert len(names) == 23
    assert "blue/1-1.png" not in names
    # all 23 are drawn, 7 of them blue: no more and no fewer by chance
    whole, region = cases.finding.lines
    assert "7 of the 23 nearest cases" in whole.text and "chance it would be 7.0" in whole.text
    assert cases.by_region is not None
    blue = sum(case.label == "blue" for case in cases.by_region)
    assert f"{blue} of the {len(cases.by_region)} nearest cases by the explained" in region.text
    assert f"by chance it would be {blue}.0" in region.text
    assert "Nearest among 23 images" in cases.finding.certainty


def test_labels_of_other_classes_are_not_counted_against_chance(
    objects: ModuleType, classifier: Classifier, tmp_path: Path
) -> None:
    folder = objects.write_objects(tmp_path / "images", by_class=False)
    image = objects.draw_object("red", 0, 1)
    rows = [f"{path.name},ward" for path in sorted(folder.glob("*.png"))]
    (folder / "labels.csv").write_text("\n".join(["file,name", *rows]))
    cases = find_similar(classifier, image, folder)
    assert {case.label for case in cases.by_features} == {"ward"}
    assert cases.predicted is not None
    name = cases.predicted.short_name
    assert [line.text for line in cases.finding.lines] == [
        f"No case is labelled {name}, the predicted class."
    ]
    assert "the nearest case is" in cases.finding.headline
    assert "by chance" not in str(cases.finding)


def test_labels_are_read_anew(objects: ModuleType, classifier: Classifier, tmp_path: Path) -> None:
    folder = objects.write_objects(tmp_path / "images", by_class=False)
    image, index = objects.draw_object("red", 0, 1), tmp_path / "index"
    plain = find_similar(classifier, image, folder, index=index)
    assert {case.label for case in plain.by_features} == {None}
    rows = [f"{path.name},{path.name.split('-')[0]}" for path in sorted(folder.glob("*.png"))]
    (folder / "labels.csv").write_text("\n".join(["file,name", *rows]))
    cases = find_similar(classifier, image, folder, index=index)
    assert cases.by_region is not None
    assert {case.label for case in cases.by_region[:3]} == {"red"}


def test_an_image_without_evidence_has_no_region(classifier: Classifier, folder: Path) -> None:
    grey = np.full((32, 32, 3), 90, np.uint8)
    cases = find_similar(classifier, grey, folder)
    assert cases.by_region == ()
    assert "Nothing in the image speaks for the class." in [
        line.text for line in cases.finding.lines
    ]
    assert "by the explained region: no evidence" in cases.lines


def test_a_run_compares_the_regions_of_its_masks(tiny_run: Path, tiny_card: Path) -> None:
    source = open_images("planted:size=32,images=9,classes=3,difficulty=0")
    explainer = MaskExplainer.from_pretrained(tiny_run)
    classifier = open_classifier(tiny_card)
    cases = find_similar(tiny_run, source[0].picture, source, count=3, classifier=classifier)
    images = classifier.prepare(source[0].picture)[None]
    with torch.no_grad():
        target = classifier(images).argmax(1)
    mask = explainer(images, target)[0]
    assert cases.map is not None
    assert torch.allclose(cases.map, torch.where(mask.max() >= 0.1, mask, 0.0), atol=1e-5)
    assert cases.record["region"].startswith("run ")


def test_a_network_without_classes_compares_whole_images(tmp_path: Path) -> None:
    from apercu.classifiers import InputSpec
    from apercu.pretraining.backbone import open_backbone

    spec = InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    backbone = open_backbone("timm/resnet10t", spec, 0)
    source = open_images("planted:size=32,images=6,classes=3,difficulty=0")
    cases = find_similar(backbone, source[0].picture, source, count=2)
    assert cases.by_region is None
    assert cases.predicted is None
    assert cases.by_features[0].distance == pytest.approx(0, abs=1e-5)
    with pytest.raises(ConfigError, match="knows no classes that could be explained"):
        find_similar(backbone, source[0].picture, source, method="grad_cam")


def test_what_cannot_be_is_refused_in_one_line(
    objects: ModuleType, classifier: Classifier, folder: Path, tmp_path: Path, tiny_run: Path
) -> None:
    image = objects.draw_object("red", 0, 1)
    with pytest.raises(ConfigError, match="count: expected at least 1 case, got 0"):
        find_similar(classifier, image, folder, count=0)
    with pytest.raises(TargetError, match="purple"):
        find_similar(classifier, image, folder, target="purple")
    with pytest.raises(ConfigError, match="no region is compared"):
        find_similar(classifier, image, folder, target="red", method="none")
    with pytest.raises(ConfigError, match="knows the truth"):
        find_similar(classifier, image, folder, method="true_box")
    with pytest.raises(ConfigError, match="only a trained explainer"):
        find_similar(classifier, image, folder, classifier=classifier)
    with pytest.raises(ConfigError, match="a trained explainer explains itself"):
        find_similar(tiny_run, image, folder, method="cam")
    with pytest.raises(RunError, match="name it with --classifier SPEC"):
        find_similar(tiny_run, image, folder)
    with pytest.raises(ImagesError, match="no such file or folder of images"):
        find_similar(classifier, tmp_path / "missing.png", folder)
    black_box = open_classifier(lambda images: images.mean((2, 3)), size=32)
    with pytest.raises(ConfigError, match="shows no feature maps"):
        find_similar(black_box, image, folder)


def test_a_classifier_without_cam_takes_grad_cam_or_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    from apercu.methods.cam import Cam
    from apercu.methods.grad_cam import GradCam

    def refuse(*given: object) -> None:
        raise ClassifierError("no")

    monkeypatch.setattr(Cam, "compute_maps", refuse)
    assert open_case_encoder(classifier).region == "GradCam(layer=None)"
    monkeypatch.setattr(GradCam, "compute_maps", refuse)
    with pytest.raises(ClassifierError, match="name another --method, none for whole images"):
        open_case_encoder(classifier)


def test_the_cases_show_themselves(
    objects: ModuleType, classifier: Classifier, folder: Path
) -> None:
    cases = find_similar(classifier, folder / "red" / "0-0.png", folder, count=2)
    html = cases._repr_html_()
    assert html.count("<img") == 2 + 2 + 2
    assert "red" in html
    assert repr(cases).startswith("0-0.png: red (")
    assert set(objects.COLOURS) >= {case.label for case in cases.by_features}


def test_an_exported_program_is_explained_by_the_map_that_it_returns(
    objects: ModuleType, classifier: Classifier, folder: Path, tmp_path: Path
) -> None:
    card = GraphEncoder(classifier).save(tmp_path)
    program = open_classifier(card)
    assert not program.exposes_layers
    image = objects.draw_object("green", 2, 9)
    own = find_similar(program, image, folder, count=6)
    layers = find_similar(classifier, image, folder, count=6, method="grad_cam")
    assert own.by_region is not None
    assert layers.by_region is not None
    assert [case.label for case in own.by_region] == ["green"] * 6
    assert [case.name for case in own.by_region] == [case.name for case in layers.by_region]
    assert own.map is not None
    assert layers.map is not None
    assert torch.allclose(own.map, layers.map, atol=1e-4)


TABLES = {
    "labels": "file,labels\nred/0-0.png,red|large\ngreen/0-0.png,\n",
    "columns": "file,red,large\nred/0-0.png,1,1\ngreen/0-0.png,0,0\n",
    "label": "file,label\nred/0-0.png,red\n",
}


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize("place", ["inside", "beside"])
def test_labels_of_cases_are_read_from_every_form_of_table(
    objects: ModuleType, classifier: Classifier, folder: Path, tmp_path: Path, form: str, place: str
) -> None:
    among = tmp_path / "films"
    for name in ("red/0-0.png", "green/0-0.png"):
        (among / name).parent.mkdir(parents=True)
        (among / name).write_bytes((folder / name).read_bytes())
    table = (among if place == "inside" else tmp_path) / "labels.csv"
    table.write_text(TABLES[form])
    labels = None if place == "inside" else table
    image = objects.draw_object("red", 1, 7)
    cases = find_similar(classifier, image, among, labels=labels, method="none")
    said = {case.name: case.label for case in cases.by_features}
    several = {"red/0-0.png": "red|large", "green/0-0.png": "no class"}
    one = {"red/0-0.png": "red", "green/0-0.png": None}
    expected = several if form != "label" else one
    assert said.items() <= expected.items() and said["red/0-0.png"] == expected["red/0-0.png"]
    assert "1 of the" in str(cases.finding) and "labelled red" in str(cases.finding)


def test_a_table_without_the_cases_is_refused(
    objects: ModuleType, classifier: Classifier, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("file,label\nother.png,red\n")
    image = objects.draw_object("red", 1, 7)
    with pytest.raises(ImagesError, match="no label belongs to an image of"):
        find_similar(classifier, image, folder, labels=tmp_path / "t.csv", method="none")
