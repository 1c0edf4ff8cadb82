"""Tables of labels, and the parts that labelled images are split into."""

from __future__ import annotations

import io
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from apercu import open_images, train_classifier
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS
from apercu.errors import ConfigError, ImagesError
from apercu.learning import train
from apercu.learning.data import (
    LabelledSet,
    check_classes,
    describe_test_gaps,
    match_labels,
    read_labels_of,
    warn_gaps,
)
from apercu.learning.labels import read_label_rows
from apercu.learning.settings import LearningSettings
from apercu.learning.splits import LearningInputs, LearningParts, split_by_class, split_images
from apercu.log import redirect_warnings

from .conftest import open_source, write_images, write_table


def test_one_class_per_image_and_images_without_labels(films: Path, tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "t.csv", "file,finding,patient", "0.png,ill,a", "3.png,well,b", "4.png,,c"
    )
    images, others = match_labels(open_images(films), read_label_rows(table, "Patient"))
    assert images.classes == ("ill", "well") and images.decision is ONE_CLASS
    assert images.source.names == ("0.png", "3.png") and images.groups == ("a", "b")
    assert images.targets.tolist() == [[1, 0], [0, 1]]
    assert others is not None and others.names == ("1.png", "2.png", "4.png", "5.png")


@pytest.mark.parametrize(
    "rows",
    [
        ("file,labels", "0.png,Mass|Effusion", "1.png,", "2.png,Mass"),
        ("file,age,Effusion,Mass", "0.png,40,1,1", "1.png,7,0,0", "2.png,9,0,1"),
    ],
)
def test_several_classes_per_image(films: Path, tmp_path: Path, rows: tuple[str, ...]) -> None:
    images, _ = match_labels(
        open_images(films), read_label_rows(write_table(tmp_path / "t.csv", *rows))
    )
    assert images.classes == ("Effusion", "Mass") and images.decision is EACH_CLASS
    assert images.targets.tolist() == [[1, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize(
    "name",
    [
        "{}",
        "./{}",
        "{}/films/a/1.png",
        "films/a/1.png",
        "1.png",
        "1",
        "films\\a\\1.png",
    ],
)
def test_files_are_found_however_people_name_them(tmp_path: Path, name: str) -> None:
    images = open_images(write_images(tmp_path / "films", ["a/1.png", "b/2.png", "b/3.4.png"]))
    file = name.format(tmp_path if "/films" in name else "a/1.png")
    table = write_table(tmp_path / "t.csv", "file,label", f"{file},x", "elsewhere/9.png,y")
    rows = read_label_rows(table)
    assert rows.match(images) == {0: next(iter(rows.labels))}


def test_a_name_that_several_images_or_rows_share_matches_none(tmp_path: Path) -> None:
    images = open_images(write_images(tmp_path / "films", ["a/1.png", "b/1.png", "b/2.png"]))
    rows = read_label_rows(write_table(tmp_path / "t.csv", "file,label", "1.png,x", "2,y"))
    assert rows.match(images) == {2: "2"}
    other = write_table(tmp_path / "u.csv", "file,label", "test/2.png,x", "/data/2.png,y")
    with pytest.raises(ImagesError, match="no label belongs to an image"):
        read_label_rows(other).match(images)  # images of another folder with the same names


def test_a_name_with_a_dot_and_no_suffix_is_found(tmp_path: Path) -> None:
    images = open_images(write_images(tmp_path / "films", ["3.4.png", "3.5.png"]))
    rows = read_label_rows(write_table(tmp_path / "t.csv", "file,label", "3.5,x", "3.4,y"))
    assert rows.match(images) == {0: "3.4", 1: "3.5"}


def test_files_are_found_relative_to_the_table(films: Path, tmp_path: Path) -> None:
    table = write_table(films.parent / "t.csv", "file,label", "films/2.png,a", "other/3.png,b")
    assert read_label_rows(table).match(open_images(films)) == {2: "films/2.png"}
    (tmp_path / "elsewhere").mkdir()
    moved = table.rename(tmp_path / "elsewhere" / "t.csv")
    assert read_label_rows(moved).match(open_images(films)) == {2: "films/2.png"}


@pytest.mark.parametrize(
    ("rows", "group", "message"),
    [
        (("file,labl", "0.png,a"), None, "expected a column of labels"),
        (("name,label", "0.png,a"), None, "expected a column file"),
        (("file,label", "0.png,a", "0.png,b"), None, "line 3: 0.png is listed twice"),
        (("file,label,patient", "0.png,a,p", "1.png,b,"), "patient", "line 3: expected a patient"),
        (("file,label,patient", "0.png,a,p"), "patent", "did you mean patient"),
        (("file,label", "x.png,a", "y.png,b"), None, "no label belongs to an image"),
        ((), None, "expected a column file, got an empty file"),
    ],
)
def test_a_wrong_table_is_one_line(
    films: Path, tmp_path: Path, rows: tuple[str, ...], group: str | None, message: str
) -> None:
    table = write_table(tmp_path / "t.csv", *rows)
    with pytest.raises(ImagesError, match=message) as caught:
        match_labels(open_images(films), read_label_rows(table, group))
    assert "\n" not in str(caught.value)


def make_labelled(labels: list[int], classes: int, groups: list[str] | None = None) -> LabelledSet:
    source = open_images(f"planted:images={len(labels)},size=32")
    targets = torch.nn.functional.one_hot(torch.tensor(labels), classes).float()
    names = tuple("abcdef"[:classes])
    return LabelledSet(source, names, targets, ONE_CLASS, tuple(groups) if groups else None)


def test_every_class_is_in_every_part_in_proportion() -> None:
    images = make_labelled([0] * 60 + [1] * 30 + [2] * 10, 3)
    parts = split_by_class(images, (0.6, 0.2, 0.2), 0)
    assert sorted(index for part in parts for index in part) == list(range(100))
    counts = [images.targets[part].sum(0).tolist() for part in parts]
    assert counts == [[36, 18, 6], [12, 6, 2], [12, 6, 2]]
    assert split_by_class(images, (0.6, 0.2, 0.2), 0) == parts
    assert split_by_class(images, (0.6, 0.2, 0.2), 1) != parts


def test_three_images_of_a_class_are_in_three_parts() -> None:
    images = make_labelled([0] * 30 + [1] * 3, 2)
    parts = split_by_class(images, (0.6, 0.2, 0.2), 0)
    assert [int(images.targets[part, 1].sum()) for part in parts] == [1, 1, 1]


def test_groups_stay_together() -> None:
    labels, groups = [0, 1] * 30, [f"patient {number // 3}" for number in range(60)]
    images = make_labelled(labels, 2, groups)
    parts = split_by_class(images, (0.6, 0.2, 0.2), 0)
    members = [{groups[index] for index in part} for part in parts]
    assert all(members) and sum(map(len, members)) == 20
    assert 30 <= len(parts[0]) <= 42


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0, 0, 0, 0], None, "all labels are a"),
        ([0, 0, 0, 1], None, "class b has 1 image, expected at least 3"),
        ([0, 0, 0, 1, 1, 1], ["x", "y", "z", "x", "x", "y"], "class b has 2 groups"),
    ],
)
def test_too_few_labels_are_one_line(
    labels: list[int], groups: list[str] | None, message: str
) -> None:
    with pytest.raises(ImagesError, match=message):
        check_classes(make_labelled(labels, 2, groups), 3)


def write_parquet(path: Path, patients: list[object]) -> Path:
    """Write a Parquet file of images with the classes `a` and `b`, and a patient of each."""
    import pyarrow as pa
    from pyarrow.parquet import write_table as write

    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    images = [{"bytes": data.getvalue(), "path": None}] * len(patients)
    labels = ["ab"[number % 2] for number in range(len(patients))]
    write(pa.table({"image": images, "label": labels, "Patient": patients}), path)
    return path


def test_images_of_a_parquet_file_bring_their_groups(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "films.parquet", [float(n // 2) for n in range(12)])
    settings, inputs = LearningSettings(calibration=0.34), LearningInputs(path, group="patient")
    parts = split_images(settings, inputs, open_source, 0)  # type: ignore[arg-type]
    groups = [set(part.groups or ()) for part in parts[:3]]
    assert set().union(*groups) == {"0", "1", "2", "3", "4", "5"}
    assert sum(map(len, groups)) == 6  # each patient is in one part
    assert all(len(part) == 2 * len(own) for part, own in zip(parts[:3], groups, strict=True))
    missing = LearningInputs(path, group="patent")
    with pytest.raises(ImagesError, match=r"expected a column patent.*did you mean Patient"):
        missing.open_labelled(open_source)  # type: ignore[arg-type]


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_a_row_of_a_parquet_file_without_group_is_told(tmp_path: Path, gap: object) -> None:
    path = write_parquet(tmp_path / "films.parquet", [1.0, 2.0, gap, 3.0])
    with pytest.raises(ImagesError, match=r"row-2: expected a patient, got nothing \(1 of 4"):
        LearningInputs(path, group="patient").open_labelled(open_source)  # type: ignore[arg-type]
    named = write_parquet(tmp_path / "named.parquet", ["p1", "NA", "NA", "p2"])
    lines: list[str] = []
    with redirect_warnings(lines.append):
        LearningInputs(named, group="patient").open_labelled(open_source)  # type: ignore[arg-type]
    assert len(lines) == 1 and "NA is one group, of 2 labelled images" in lines[0]


def test_too_few_labels_for_the_folds_of_a_search_are_one_line(films: Path, tmp_path: Path) -> None:
    """Six labels are enough for the parts, and not for three folds of the training part."""
    rows = (f"{number}.png,{'ab'[number % 2]}" for number in range(6))
    table = write_table(tmp_path / "labels.csv", "file,label", *rows)
    message = (
        r"class [ab] has 1 image, .*each fold of the search \(search.folds\), which is made of"
    )
    with pytest.raises(ImagesError, match=message):
        train_classifier(
            films, "timm/test_resnet", tmp_path / "run", labels=table, config="scratch", search=True
        )
    assert not (tmp_path / "run" / "search").exists()


def test_parts_with_test_images_and_their_groups(films: Path, tmp_path: Path) -> None:
    rows = [f"{number}.png,{'ab'[number % 2]},p{number}" for number in range(6)]
    write_table(films / "labels.csv", "file,label,patient", *rows)
    other = write_images(tmp_path / "other", ["7.png", "8.png"])
    write_table(other / "labels.csv", "file,label,patient", "7.png,a,p7", "8.png,b,p8")
    settings = LearningSettings(calibration=0.34)
    parts = split_images(
        settings, LearningInputs(films, group="patient", test=other), open_source, 0
    )  # type: ignore[arg-type]
    assert [len(part) for part in parts[:3]] == [4, 2, 2] and parts.unlabelled is None
    write_table(other / "labels.csv", "file,label,patient", "7.png,a,p7", "8.png,b,p3")
    with pytest.raises(ImagesError, match=r"1 of the groups \(patient\) are also among"):
        split_images(settings, LearningInputs(films, group="patient", test=other), open_source, 0)  # type: ignore[arg-type]
    write_table(other / "labels.csv", "file,label,patient", "7.png,a,p7", "8.png,c,p8")
    with pytest.raises(ImagesError, match="c is no class of the images to learn from"):
        split_images(settings, LearningInputs(films, test=other), open_source, 0)  # type: ignore[arg-type]
    with pytest.raises(ImagesError, match="name it with --labels CSV"):
        split_images(settings, LearningInputs("planted", group="patient"), open_source, 0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="name them with --test"):
        LearningInputs(films, test_labels="t.csv")


def test_labels_of_planted_images() -> None:
    images = read_labels_of(open_images("planted:images=6,classes=3,size=32"))
    assert images.classes == ("dots", "rings", "stripes")
    assert images.targets.sum(0).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\na.png,x\nimages/a.png,y\n", r"a\.png and images/a\.png are one image"),
        ("file,label\na.png,x\n./a.png,y\n", r"line 3: a\.png is listed twice"),
        ("file,label,Label\na.png,x,y\n", "the column label is there twice, expected once"),
    ],
)
def test_an_image_with_two_labels_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ImagesError, match=message):
        match_labels(open_images(tmp_path / "images"), read_label_rows(tmp_path / "t.csv"))


def test_labels_without_an_image_are_named(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("file,label\r\n./a.png,x\r\nb.png,y\r\n")
    lines: list[str] = []
    with redirect_warnings(lines.append):
        rows = read_label_rows(tmp_path / "t.csv")
        labelled, others = match_labels(open_images(tmp_path), rows)
    assert labelled.source.names == ("a.png",) and others is None
    assert len(lines) == 1 and "1 of 2 labels belong to no image" in lines[0]
    assert "that of b.png" in lines[0]


def test_test_images_are_not_learnt_from(tmp_path: Path) -> None:
    for number in range(12):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{'xy'[number % 2]}" for number in range(12)]
    for name, part in (("t.csv", rows), ("own.csv", rows[:8]), ("other.csv", rows[8:])):
        (tmp_path / name).write_text("\n".join(["file,label", *part]))

    def split(test: str) -> LearningParts:
        inputs = LearningInputs(
            tmp_path, tmp_path / "own.csv", test=tmp_path, test_labels=tmp_path / test
        )
        with redirect_warnings(lambda line: None):
            return split_images(LearningSettings(), inputs, open_images, 0)

    assert split("other.csv").test.source.names == ("10.png", "11.png", "8.png", "9.png")
    with pytest.raises(ImagesError, match="8 of 12 test images are also among"):
        split("t.csv")


def test_one_column_of_0_and_1_is_a_class_and_its_absence(films: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", "file,Mass", "0.png,1", "1.png,0", "2.png,0")
    images, _ = match_labels(open_images(films), read_label_rows(table))
    assert images.classes == ("not Mass", "Mass") and images.decision is ONE_CLASS
    assert images.targets.tolist() == [[0, 1], [1, 0], [1, 0]]
    table = write_table(tmp_path / "t.csv", "file,labels", "0.png,Mass", "1.png,", "2.png,")
    images, _ = match_labels(open_images(films), read_label_rows(table))
    with pytest.raises(ImagesError, match="the only class is Mass; give a column `label`"):
        check_classes(images, 1)


def test_columns_of_0_and_1_with_gaps(films: Path, tmp_path: Path) -> None:
    """Numbers may end in .0; an image whose classes are all empty has no label."""
    head = ("file,Ill,old,age,side", "0.png,1.0,0.0,40,left", "1.png,0.0,1.0,1,right")
    table = write_table(tmp_path / "t.csv", *head, "2.png,,,7,left")
    images, others = match_labels(open_images(films), read_label_rows(table))
    assert images.classes == ("Ill", "old") and images.decision is EACH_CLASS
    assert images.targets.tolist() == [[1, 0], [0, 1]]
    assert others is not None and "2.png" in others.names
    assert images.describe_classes() == (
        "2 classes, each by itself: Ill, old; columns not used: age, side"
    )


@pytest.mark.parametrize("cell", ["yes", "2", "?", "n/a", "-2"])
def test_another_cell_in_a_column_of_0_and_1_is_named(tmp_path: Path, cell: str) -> None:
    table = write_table(tmp_path / "t.csv", "file,ill,Old", "0.png,1,1", f"1.png,0,{cell}")
    message = re.escape(f"t.csv line 3: expected 0 or 1 in the column Old, got {cell}; ")
    with pytest.raises(ImagesError, match=message):
        read_label_rows(table)


def test_a_mark_in_most_cells_of_a_column_is_not_overlooked(tmp_path: Path) -> None:
    rows = [f"{number}.png,{number % 2},?" for number in range(5)]
    table = write_table(tmp_path / "t.csv", "file,ill,Old", *rows, "5.png,0,1")
    with pytest.raises(ImagesError, match=r"line 2: expected 0 or 1 in the column Old, got \?;"):
        read_label_rows(table)


def test_columns_in_which_most_are_uncertain_are_classes(tmp_path: Path) -> None:
    rows = [f"{number}.png,-1.0,{number % 2}" for number in range(5)]
    table = write_table(tmp_path / "t.csv", "file,Edema,ill", *rows, "5.png,1.0,1")
    read = read_label_rows(table)
    assert read.classes == ("Edema", "ill") and read.unused == ()
    assert read.unknown == {f"{number}.png": ("Edema",) for number in range(5)}


def make_each(*columns: list[int]) -> LabelledSet:
    """Images of which each class is decided by itself."""
    source = open_images(f"planted:images={len(columns[0])},size=32")
    targets = torch.tensor(columns).float().T
    return LabelledSet(source, tuple("abcdef"[: len(columns)]), targets, EACH_CLASS)


def test_a_class_that_is_rarely_absent_is_refused_or_in_every_part() -> None:
    with pytest.raises(ImagesError, match="class a is absent from 1 image, expected at least 3"):
        check_classes(make_each([1] * 9 + [0], [0, 1] * 5), 3)
    images = make_each([1] * 57 + [0] * 3, [0, 1] * 30)
    check_classes(images, 3)
    for seed in range(5):
        parts = split_by_class(images, (0.6, 0.2, 0.2), seed)
        assert [len(part) - int(images.targets[part, 0].sum()) for part in parts] == [1, 1, 1]


def test_classes_that_are_not_measured_are_named() -> None:
    images = make_labelled([0, 0, 1, 1], 3)
    assert describe_test_gaps(images) == (
        "AUROC and the like are means of 2 of 3 classes: of the test images, no image has c"
    )
    lines: list[str] = []
    with redirect_warnings(lines.append):
        warn_gaps(images, make_each([1, 1], [0, 0]))
    assert lines[0].endswith("without all classes: of the images for it, no image has c")
    assert lines[1].startswith("AUROC and average precision cannot be measured")
    assert lines[1].endswith("no image has b, and every image has a")
    assert describe_test_gaps(make_each([0, 1], [1, 0])) == ""


@pytest.mark.parametrize("content", ["file,labels\n0.png,a|b\n", "file,a,b\n0.png,1,1.0\n"])
@pytest.mark.parametrize("place", ["films/labels.csv", "labels.csv"])
def test_a_folder_holds_a_table_of_several_classes(
    films: Path, tmp_path: Path, content: str, place: str
) -> None:
    (tmp_path / place).write_text(content)
    lines: list[str] = []
    with redirect_warnings(lines.append):
        labels = None if place == "films/labels.csv" else tmp_path / place
        images, others = LearningInputs(films, labels).open_labelled(
            lambda spec: train.open_source(spec, 3)
        )
    assert images.source.names == ("0.png",) and images.targets.tolist() == [[1, 1]]
    assert others is not None and len(others) == 5 and lines == []


def test_verbs_without_several_classes_say_so(films: Path) -> None:
    (films / "labels.csv").write_text("file,labels\n0.png,a|b\n")
    lines: list[str] = []
    with redirect_warnings(lines.append):
        images = open_images(films)
    assert not images.labelled and len(images) == 6
    assert len(lines) == 1 and "gives several classes per image" in lines[0]


def test_true_and_false_are_1_and_0(films: Path, tmp_path: Path) -> None:
    """As pandas writes columns of bools."""
    head = ("file,ill,Old", "0.png,True,FALSE", "1.png,False,true", "2.png,,1")
    images, _ = match_labels(
        open_images(films), read_label_rows(write_table(tmp_path / "t.csv", *head))
    )
    assert images.classes == ("ill", "Old") and images.count_unknown() == 1
    assert images.targets[:2].tolist() == [[1, 0], [0, 1]]
    table = write_table(tmp_path / "t.csv", "file,ill,side", "0.png,yes,left", "1.png,no,left")
    with pytest.raises(ImagesError, match=r"got ill \(yes, no\), side \(left\)$"):
        read_label_rows(table)


def test_labels_come_from_parquet_and_fits_tables_too(films: Path, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "file": ["0.png", "1.png", "2.png"],
        "label": [2.0, 10.0, float("nan")],
        "night": [20250101, 20250102, 20250102],
    }
    parquet.write_table(arrow.table(columns), tmp_path / "t.parquet")
    tables = [tmp_path / "t.parquet"]
    if find_spec("astropy"):
        from astropy.table import Table

        tables.append(tmp_path / "t.fits")
        Table(columns).write(tables[1])
    for table in tables:
        images, others = match_labels(open_images(films), read_label_rows(table, "night"))
        assert images.classes == ("2", "10") and images.targets.tolist() == [[1, 0], [0, 1]]
        assert images.groups == ("20250101", "20250102") and images.unlabelled == 1
        assert others is not None and "2.png" in others.names
    bools = arrow.table({"file": ["0.png", "1.png"], "ill": [True, False]})
    parquet.write_table(bools, tmp_path / "t.parquet")
    assert read_label_rows(tmp_path / "t.parquet").labels == {
        "0.png": ("ill",),
        "1.png": ("not ill",),
    }


@pytest.mark.parametrize(
    ("rows", "doubt"),
    [
        (("file,label", "0.png,a", "1.png,NaN", "2.png,NaN"), "NaN is a class, of 2 images; leave"),
        (("file,label", "0.png,Mass", "1.png,mass", "2.png,x"), "Mass and mass are 2 classes"),
        (("file,label", "0.png,a|b", "1.png,a"), r"a\|b is a class of its own; call the column"),
        (("file,labels", "0.png,a;b", "1.png,a"), "a;b is a class of its own; write |"),
        (("file,label", "0.png,a;b", "1.png,none", "2.png,None of all"), ""),
        (("file,labels", '0.png,"left, lower|b"', '1.png,"right, lower"'), ""),
        (("file;labels", "0.png;a,c", "1.png;b,c"), "a,c is a class of its own; write |"),
        (("file,a,A b", "0.png,1,0", "1.png,0,1"), ""),
    ],
)
def test_names_of_classes_that_were_meant_otherwise(
    films: Path, tmp_path: Path, rows: tuple[str, ...], doubt: str
) -> None:
    inputs = LearningInputs(films, write_table(tmp_path / "t.csv", *rows))
    lines: list[str] = []
    with redirect_warnings(lines.append):
        inputs.open_labelled(open_source)
    assert len(lines) == (doubt != "") and re.search(doubt, "".join(lines))


@pytest.mark.parametrize("head", ["file,label,patient", "file,a,patient"])
def test_a_group_that_stands_for_a_gap_is_told(films: Path, tmp_path: Path, head: str) -> None:
    rows = ("0.png,1,nan", "1.png,0,nan", "2.png,0,x", "3.png,,NA")
    inputs = LearningInputs(films, write_table(tmp_path / "t.csv", head, *rows), "patient")
    lines: list[str] = []
    with redirect_warnings(lines.append):
        inputs.open_labelled(open_source)
    assert len(lines) == 1 and "nan is one group, of 2 labelled images; write" in lines[0]


def test_a_folder_holds_a_table_with_empty_labels(films: Path) -> None:
    write_table(films / "labels.csv", "file,label", "0.png,a", "1.png,", "2.png,b")
    images, others = LearningInputs(films).open_labelled(lambda spec: train.open_source(spec, 3))
    assert images.source.names == ("0.png", "2.png") and images.unlabelled == 1
    assert others is not None and len(others) == 4


def test_a_table_without_any_label_says_so(films: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", "file,label", "0.png,", "1.png,")
    with pytest.raises(ImagesError, match="gives no image a label; fill its cells in"):
        match_labels(open_images(films), read_label_rows(table))
    (tmp_path / "t.csv").write_bytes("file,label\n0.png,Entzündung\n".encode("latin-1"))
    with pytest.raises(ImagesError, match=r"; save it as CSV in UTF-8$"):
        read_label_rows(table)


def test_images_without_labels_that_also_measure_are_counted(films: Path, tmp_path: Path) -> None:
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(6)]
    table = write_table(tmp_path / "t.csv", "file,label", *rows)
    other = write_images(tmp_path / "other", ["0.png"])

    def describe(unlabelled: Path | None) -> str:
        inputs = LearningInputs(films, table, unlabelled=unlabelled)
        return split_images(LearningSettings(), inputs, open_images, 0).describe_shared()

    assert describe(None) == describe(other) == ""
    assert "films: 4 of 6 images without labels also calibrate or measure, such as " in describe(
        films
    )
