"""What to label next: uncertainty, greedy k-centre against its literal version, the list."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from apercu import choose_images_to_label, open_images
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS
from apercu.errors import ConfigError, ImagesError
from apercu.images.label_tables import LabelTable, read_labels
from apercu.learning.active import (
    SHORTLIST,
    LabelChooser,
    choose_centres,
    measure_entropies,
    measure_margins,
)
from apercu.learning.case_features import open_case_encoder
from apercu.learning.case_index import Case, CaseIndex, build_index


def draw_features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def choose_literally(candidates: list[list[float]], labelled: list[list[float]], count: int):
    """Greedy k-centre as it is written down: the candidate whose nearest centre is farthest."""

    def measure(one: list[float], other: list[float]) -> float:
        product = sum(a * b for a, b in zip(one, other, strict=True))
        return 1 - product / (math.hypot(*one) * math.hypot(*other))

    centres, chosen = list(labelled), []
    for _ in range(count):
        best, best_distance = -1, -1.0
        for row, candidate in enumerate(candidates):
            distance = min(measure(candidate, centre) for centre in centres)
            if row not in chosen and distance > best_distance:
                best, best_distance = row, distance
        chosen.append(best)
        centres.append(candidates[best])
    return chosen


@pytest.mark.parametrize("seed", range(4))
def test_k_centre_is_the_literal_one(seed: int) -> None:
    candidates, labelled = draw_features(30, seed), draw_features(3, seed + 100)
    centres = choose_centres(candidates, labelled, 8)
    assert [centre.row for centre in centres] == choose_literally(
        candidates.double().tolist(), labelled.double().tolist(), 8
    )
    points = torch.cat([labelled, candidates[[centre.row for centre in centres]]]).double()
    units = torch.nn.functional.normalize(points, dim=1)
    for number, centre in enumerate(centres):
        own = units[3 + number]
        distances = 1 - units[: 3 + number] @ own
        assert centre.distance == pytest.approx(float(distances.min()))
        assert centre.nearest == int(distances.argmin())


def test_without_labels_the_most_typical_image_comes_first() -> None:
    candidates = draw_features(20, 5)
    first, *others = choose_centres(candidates, candidates[:0], 4)
    units = torch.nn.functional.normalize(candidates.double(), dim=1)
    assert first.row == int((units @ units.mean(0)).argmax())
    assert (first.distance, first.nearest) == (None, None)
    literal = choose_literally(
        candidates.double().tolist(), candidates[[first.row]].double().tolist(), 3
    )
    assert [centre.row for centre in others] == literal


def test_all_are_chosen_once_when_more_are_asked_for() -> None:
    candidates = torch.ones(5, 3)
    assert sorted(c.row for c in choose_centres(candidates, candidates[:1], 9)) == list(range(5))


def test_uncertainty_is_that_of_the_formulas() -> None:
    probabilities = draw_features(10, 0).softmax(1)
    for row, values in enumerate(probabilities.tolist()):
        first, second = sorted(values)[-1], sorted(values)[-2]
        entropy = -sum(value * math.log(value) for value in values) / math.log(4)
        assert float(measure_margins(probabilities, ONE_CLASS)[row]) == pytest.approx(
            first - second, abs=1e-6
        )
        assert float(measure_entropies(probabilities, ONE_CLASS)[row]) == pytest.approx(
            entropy, abs=1e-6
        )
    each = torch.tensor([[0.9, 0.5], [0.99, 0.02], [1.0, 0.0]])
    assert measure_margins(each, EACH_CLASS).tolist() == pytest.approx([0.0, 0.96, 1.0])
    binary = [-(p * math.log2(p) + (1 - p) * math.log2(1 - p)) for p in (0.9, 0.5)]
    assert measure_entropies(each, EACH_CLASS).tolist() == pytest.approx(
        [sum(binary) / 2, 0.1111, 0.0], abs=2e-4
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, objects: ModuleType) -> Path:
    return objects.write_objects(tmp_path_factory.mktemp("objects"), each=2, by_class=False)


def test_every_choice_has_its_reason(objects: ModuleType, folder: Path, tmp_path: Path) -> None:
    classifier = objects.make_classifier()
    chosen = choose_images_to_label(classifier, folder, by="margin", batch=5, out=tmp_path)
    encoder = open_case_encoder(classifier, explains=False)
    index = build_index(encoder, open_images(f"{folder}/**"))
    margins = measure_margins(index.logits.softmax(1), ONE_CLASS)
    order = margins.argsort(stable=True)[:5].tolist()
    assert [each.name for each in chosen.choices] == [index.cases[row].name for row in order]
    rows = list(csv.DictReader((tmp_path / "next.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [each.name for each in chosen.choices]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    for row, margin in zip(rows, sorted(margins.tolist()), strict=False):
        assert float(row["margin"]) == pytest.approx(margin, abs=1e-5)
        assert row["reason"].startswith(f"uncertain (margin {margin:.2f}): {row['predicted']} ")
        assert row["distance"] == row["nearest"] == ""
    assert chosen._repr_html_().count("<img") == 5


def test_combined_is_k_centre_among_the_most_uncertain(objects: ModuleType, folder: Path) -> None:
    classifier = objects.make_classifier()
    encoder = open_case_encoder(classifier, explains=False)
    index = build_index(encoder, open_images(f"{folder}/**"))
    labelled, batch = [0, 7, 20], 3
    chosen = LabelChooser.from_encoder(encoder, index).choose(labelled, "combined", batch)
    margins = measure_margins(index.logits.softmax(1), ONE_CLASS)
    left = [row for row in margins.argsort(stable=True).tolist() if row not in labelled]
    shortlist = left[: SHORTLIST * batch]
    features = index.features.double()
    literal = choose_literally(features[shortlist].tolist(), features[labelled].tolist(), batch)
    assert [each.row for each in chosen] == [shortlist[row] for row in literal]
    assert all("uncertain" in each.reason and "nearest labelled" in each.reason for each in chosen)


def test_labelled_images_are_left_out_and_are_centres(
    objects: ModuleType, folder: Path, tmp_path: Path
) -> None:
    classifier, table = objects.make_classifier(), tmp_path / "labels.csv"
    files = sorted(path.name for path in folder.glob("*.png"))
    table.write_text("file,name\n" + "".join(f"{file},x\n" for file in files if "red" in file))
    given = {"labels": table, "batch": 50, "index": tmp_path / "index"}
    chosen = choose_images_to_label(classifier, folder, by="centre", **given)
    assert chosen.labelled == 8
    assert not [each for each in chosen.choices if "red" in each.name]
    assert len(chosen) == 16
    assert chosen.choices[0].nearest in files
    other = objects.write_objects(tmp_path / "other")
    further = choose_images_to_label(classifier, folder, by="centre", labelled=other, **given)
    distances = [each.choices[0].distance for each in (further, chosen)]
    assert distances[0] < distances[1]


def test_labels_of_the_folder_are_found_there(objects: ModuleType, tmp_path: Path) -> None:
    folder = objects.write_objects(tmp_path / "images", by_class=False)
    LabelTable(folder / "labels.csv").write("red-0-0.png", "red")
    chosen = choose_images_to_label(objects.make_classifier(), folder, batch=50)
    assert len(chosen) == 11
    assert "red-0-0.png" not in {each.name for each in chosen.choices}


def test_what_cannot_be_is_refused_in_one_line(
    objects: ModuleType, folder: Path, tmp_path: Path, backbone, shapes_unchecked: None
) -> None:
    classifier, table = objects.make_classifier(), tmp_path / "labels.csv"
    with pytest.raises(ConfigError, match=r"by: expected one of combined.*got centr; did you mean"):
        choose_images_to_label(classifier, folder, by="centr")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch: expected at least 1 image, got 0"):
        choose_images_to_label(classifier, folder, batch=0)
    with pytest.raises(ImagesError, match="no such table of labels"):
        choose_images_to_label(classifier, folder, labels=table)
    table.write_text("file,name\nother.png,red\n")
    with pytest.raises(ImagesError, match="no label belongs to an image of"):
        choose_images_to_label(classifier, folder, labels=table)
    files = [path.name for path in folder.glob("*.png")]
    table.write_text("file,name\n" + "".join(f"{file},red\n" for file in files))
    with pytest.raises(ImagesError, match="all 24 images have labels"):
        choose_images_to_label(classifier, folder, labels=table)
    with pytest.raises(ConfigError, match="knows no classes, so combined cannot be measured"):
        choose_images_to_label(backbone, folder)
    assert len(choose_images_to_label(backbone, folder, by="centre", batch=3)) == 3


# --- the table of labels -------------------------------------------------------------------------


def test_a_label_is_written_in_the_format_that_is_read(tmp_path: Path) -> None:
    table = LabelTable(tmp_path / "labels.csv")
    assert table.read() == {}
    table.write("a.png", "cat")
    table.write("=1+1.png", "-dog")
    table.write("sub/b, c.png", "cat")
    table.write("a.png", "dog")
    assert read_labels(table.path) == (
        "name",
        {"a.png": "dog", "=1+1.png": "-dog", "sub/b, c.png": "cat"},
    )
    table.write("=1+1.png", None)
    assert table.read() == {"a.png": "dog", "sub/b, c.png": "cat"}


def test_other_columns_and_the_form_of_labels_stay(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("Patient;file;class_index\np1;a.png;1\np2;b.png;0\n", encoding="utf-8-sig")
    table = LabelTable(path, ("cat", "dog"))
    table.write("b.png", "dog")
    table.write("c.png", "cat")
    assert list(csv.reader(path.read_text().splitlines())) == [
        ["Patient", "file", "class_index"],
        ["p1", "a.png", "1"],
        ["p2", "b.png", "1"],
        ["", "c.png", "0"],
    ]
    assert table.read() == {"a.png": "dog", "b.png": "dog", "c.png": "cat"}
    table.write("b.png", None)
    table.write("c.png", None)  # a row that holds nothing else
    assert path.read_text().split() == ["Patient,file,class_index", "p1,a.png,1", "p2,b.png,"]
    table.write("b.png", "dog")
    table.write("c.png", "cat")
    with pytest.raises(ImagesError, match="no number for the class bird"):
        table.write("a.png", "bird")
    path.write_text("file,class_index\na.png,7\n")
    with pytest.raises(ImagesError, match="expected a class_index below 2, got 7"):
        table.read()


def test_a_killed_process_loses_no_label(tmp_path: Path) -> None:
    """The labels up to the last line that was told are there, and the table is whole."""
    code = (
        "import sys; from pathlib import Path; from apercu.images.label_tables import LabelTable\n"
        "table = LabelTable(Path(sys.argv[1]))\n"
        "for number in range(10000):\n"
        "    table.write(f'{number}.png', 'cat'); print(number, flush=True)\n"
    )
    path = tmp_path / "labels.csv"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    told = [int(line) for line in process.stdout.read().split()]
    process.wait()
    process.stdout.close()
    last = max([4, *told])
    labels = LabelTable(path).read()
    assert {f"{number}.png" for number in range(last + 1)} <= labels.keys()
    assert len(labels) <= last + 2


def test_the_reason_names_the_classes_that_are_undecided() -> None:
    """Where each class is decided by itself, these need not be the most probable ones."""
    source = open_images("planted:images=2,size=32")
    cases = tuple(Case(name, "", None) for name in source.names)
    rows = torch.tensor([[0.99, 0.95, 0.52], [0.02, 0.03, 0.3]])
    index = CaseIndex(source, (0, 1), cases, rows.logit(), draw_features(2, 0))
    chooser = LabelChooser(index, ("a", "b", "c"), rows, EACH_CLASS)
    first, second = chooser.choose([], by="margin")
    assert first.reason == "uncertain (margin 0.04): c 52 %, b 95 %"
    assert second.reason == "uncertain (margin 0.40): c 30 %, b 3.0 %"
    assert (first.predicted, second.predicted) == ("a", "c")
    rows = torch.tensor([[0.5, 0.3, 0.2]])
    reason = LabelChooser(index, ("a", "b", "c"), rows, ONE_CLASS).describe(0).reason
    assert reason == "uncertain (margin 0.20): a 50 %, b 30 %"
