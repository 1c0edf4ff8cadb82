"""Tables of labels as spreadsheets and pandas write them, and the files that they name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apercu import open_images
from apercu.errors import ImagesError, InputError
from apercu.learning import train
from apercu.learning.data import match_labels
from apercu.learning.labels import read_label_rows
from apercu.learning.settings import LearningSettings
from apercu.learning.splits import LearningInputs, split_images
from apercu.log import redirect_warnings

from .conftest import open_source, write_images, write_table


def test_numbers_of_classes_and_patients_that_pandas_wrote_with_a_point(
    films: Path, tmp_path: Path
) -> None:
    """pandas makes 1.0 of 1 where a cell is empty; another table may hold 1."""
    first = write_table(
        tmp_path / "t.csv",
        ",file,label,patient",
        *("0,0.png,1.0,7.0", "1,1.png,0.0,8.0", "2,2.png,1.0,9.0", "3,3.png,,"),
        *("4,4.png,0,10.0", ",,,"),
    )
    images, others = match_labels(open_images(films), read_label_rows(first, "patient"))
    assert images.classes == ("0", "1") and images.groups == ("7", "8", "9", "10")
    assert images.targets.argmax(1).tolist() == [1, 0, 1, 0]
    assert others is not None and others.names == ("3.png", "5.png")
    other = write_images(tmp_path / "other", ["a.png", "b.png"])
    second = write_table(tmp_path / "u.csv", "file,label,patient", "a.png,1,7", "b.png,0,11")
    inputs = LearningInputs(films, first, "patient", other, second)
    with pytest.raises(ImagesError, match=r"1 of the groups .patient. are also among .* such as 7"):
        split_images(LearningSettings(), inputs, open_images, 0)
    write_table(films / "labels.csv", "file,class_index", "0.png,1.0", "1.png,0.0", "2.png,1")
    assert open_images(films).labels == (1, 0, 1)
    versions = write_table(tmp_path / "v.csv", "file,label", "0.png,1.0", "1.png,1.5")
    assert read_label_rows(versions).classes == ("1.0", "1.5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sep=;\nfile;label\n0.png;a\n;\n1.png;b\n;;\n", None),
        ('"sep=\t"\r\nfile\tlabel\r\n0.png\ta\r\n1.png\tb\r\n', None),
        ("\n\nfile,label,\n0.png,a,\n\n1.png,b,,\n", None),
        ("file,label\n0.png,a\n1.png,b, left\n", "t.csv line 3: expected 2 cells like the header"),
        ("file,label\n0.png,a\n\n1.png,b, left\n", "t.csv line 4: expected 2 cells"),
        ("PK\x03\x04", "it is a workbook.*save it as CSV"),
    ],
)
def test_tables_out_of_spreadsheets(
    films: Path, tmp_path: Path, content: str, message: str | None
) -> None:
    (tmp_path / "t.csv").write_bytes(content.encode())
    (films / "labels.csv").write_bytes(content.encode())
    if message is None:
        labels = {"0.png": ("a",), "1.png": ("b",)}
        assert read_label_rows(tmp_path / "t.csv").labels == labels
        assert open_images(films).labels == ("a", "b")
        return
    with pytest.raises(ImagesError, match=message):
        read_label_rows(tmp_path / "t.csv")
    with pytest.raises(ImagesError, match=message.replace("t.csv", "labels.csv")):
        open_images(films)


def test_the_numbers_of_rows_are_no_class(films: Path, tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "t.csv", ",Unnamed: 0,file,ill", "0,0,0.png,1", "1,1,1.png,0", "2,1,2.png,1"
    )
    assert read_label_rows(table).classes == ("not ill", "ill")


def test_paths_of_another_machine(tmp_path: Path) -> None:
    """They end in the folder of the images; one that could be two files names none."""
    images = open_images(write_images(tmp_path / "films", ["a/1.png", "b/1.png", "b/2.png"]))
    table = tmp_path / "t.csv"
    write_table(table, "file,label", "D:\\x\\films\\a\\1.png,x", "/y/films/b/2.png,y")
    assert {index: file[-5:] for index, file in read_label_rows(table).match(images).items()} == {
        0: "1.png",
        2: "2.png",
    }
    write_table(table, "file,label", "D:\\x\\films\\a\\1.png,x", "D:\\y\\films\\a\\1.png,x")
    for rows in (table, write_table(tmp_path / "u.csv", "file,label", "/other/a/1.png,x")):
        with pytest.raises(ImagesError, match="no label belongs to an image"):
            read_label_rows(rows).match(images)


def test_images_of_one_file_are_named_by_it(tmp_path: Path) -> None:
    """`stamps.npz#518` names an image in a table, as it does on the command line."""
    np.savez(tmp_path / "stamps.npz", x=np.zeros((3, 3, 8, 8), np.uint8), id=np.array([7, 8, 9]))
    stack = open_images(tmp_path / "stamps.npz")
    for start in ("", "stamps.npz#", f"{tmp_path}/stamps.npz#"):
        table = write_table(tmp_path / "t.csv", "file,label", f"{start}8,x", f"{start}9,y")
        assert list(read_label_rows(table).match(stack)) == [1, 2]
    one = open_images(f"{tmp_path}/stamps.npz#9")
    assert list(read_label_rows(table).match(one)) == [0]


def write_scans(folder: Path, count: int, pages: int) -> Path:
    """Write TIFF files of several pages."""
    folder.mkdir(parents=True)
    for number in range(count):
        page = Image.new("RGB", (8, 8), (number, 0, 0))
        others = [page] * (pages - 1)
        page.save(folder / f"{number}.tif", save_all=True, append_images=others)
    return folder


def test_pages_of_a_file_stay_in_one_part(tmp_path: Path) -> None:
    """Its label is that of all its pages; pages with labels of their own are told."""
    scans = write_scans(tmp_path / "scans", 10, 3)
    whole = write_table(
        tmp_path / "t.csv", "file,label", *(f"{n}.tif,{'xy'[n % 2]}" for n in range(10))
    )
    single = write_table(
        tmp_path / "u.csv",
        "file,label",
        *(f"{n}.tif#{page},{'xy'[n % 2]}" for n in range(10) for page in (1, 2, 3)),
    )
    lines: list[str] = []
    for table in (whole, single):
        with redirect_warnings(lines.append):
            parts = split_images(LearningSettings(), LearningInputs(scans, table), open_source, 0)
        files = [{name.partition("#")[0] for name in part.source.names} for part in parts[:3]]
        are_apart = not (files[0] & files[1] or files[0] & files[2] or files[1] & files[2])
        assert are_apart == (table is whole)
        assert sum(len(part) for part in parts[:3]) == 30
    assert set(parts[0].units) <= set(open_images(scans).names)
    assert len(lines) == 1 and "files are in several parts" in lines[0]
    for name in "xy":
        write_scans(tmp_path / "classes" / name, 3, 2)
    parts = split_images(LearningSettings(), LearningInputs(tmp_path / "classes"), open_source, 0)
    assert [len(part) for part in parts[:3]] == [4, 4, 4]
    assert all(len(set(part.units)) == 2 for part in parts[:3])
    with redirect_warnings(lines.append):  # test images may be called as those to train on
        inputs = LearningInputs(tmp_path / "classes", test=tmp_path / "test")
        shutil.copytree(tmp_path / "classes", tmp_path / "test")
        parts = split_images(LearningSettings(), inputs, open_source, 0)
    assert len(parts.test) == 12 and len(lines) == 1
    one = LearningInputs(write_scans(tmp_path / "one", 2, 9), whole)
    with pytest.raises(ImagesError, match="class x has 1 file, expected at least 3"):
        split_images(LearningSettings(), one, open_source, 0)


def test_a_table_gives_labels_to_images_in_any_folders(tmp_path: Path) -> None:
    """Folders are no classes where a table is named; some images may lie beside them."""
    films = write_images(
        tmp_path / "films", [*(f"{n}.png" for n in range(4)), "a/4.png", "a/5.png"]
    )
    rows = [f"{name},{'xy'[n % 2]}" for n, name in enumerate(open_images(films / "**").names)]
    table = write_table(tmp_path / "t.csv", "file,label", *rows)
    for inputs in (
        LearningInputs(films, table),
        LearningInputs("planted", None, None, films, table),
    ):
        source = inputs.images if inputs.test is None else inputs.test
        assert len(train.open_source(source, 3)) == 6
    parts = split_images(LearningSettings(), LearningInputs(films, table), open_source, 0)
    assert sum(len(part) for part in parts[:3]) == 6 and parts.unlabelled is None


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("labels", [None, "t.csv"])
def test_images_that_are_no_path_are_refused_in_one_line(labels: str | None) -> None:
    with pytest.raises(InputError, match="images: expected the path of a file or a folder"):
        train.train_classifier(3, "timm/test_resnet", "x", labels=labels, config="scratch")
