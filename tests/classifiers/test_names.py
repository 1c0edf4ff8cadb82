"""The words that people may type for a class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apercu.classifiers.names import ClassNames, choose_targets, resolve_targets
from apercu.errors import ClassifierError, TargetError

BIRDS = ClassNames.of(["tench, Tinca tinca", "crane", "Crane", "hen"], ["n1", "n2", "n3", "n4"])


@pytest.mark.parametrize(
    ("word", "index"),
    [("hen", 3), ("HEN ", 3), ("tench", 0), ("Tinca tinca", 0), ("N2", 1), ("2", 2), (2, 2)],
)
def test_names_synonyms_identifiers_and_indices(word: str | int, index: int) -> None:
    assert BIRDS.find_index(word) == index


@pytest.mark.parametrize(
    "number",
    [1, np.int64(1), np.uint8(1), np.array(1), torch.tensor(1), torch.tensor(1, dtype=torch.uint8)],
)
def test_an_index_is_a_whole_number_of_any_type(number: Any) -> None:
    assert BIRDS.find_index(number) == 1
    assert resolve_targets(BIRDS, number, 2).tolist() == [1, 1]
    assert resolve_targets(BIRDS, [number, "hen"], 2).tolist() == [1, 3]
    with pytest.raises(TargetError, match="from 0 to 3, got 5"):
        BIRDS.find_index(number + 4)


NO_CLASSES = [None, True, np.True_, 1.0, np.float32(1), 1 + 0j, b"hen", [1], (1,), {}]
NO_CLASSES += [torch.tensor(1.0), torch.tensor(True), torch.tensor([1]), np.array([1])]


@pytest.mark.parametrize("word", NO_CLASSES)
def test_what_is_neither_text_nor_a_whole_number_names_no_class(
    word: Any, shapes_unchecked: None
) -> None:
    with pytest.raises(TargetError, match=r"^target: expected a class name or index, got .+$"):
        BIRDS.find_index(word)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_a_function_of_logits_takes_no_fractions_as_classes(dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 4, 4)
    with pytest.raises(TargetError, match="expected a class name or index"):
        choose_targets(lambda images: images[:, :, 0, 0], images, torch.ones(2, dtype=dtype))


def test_the_name_of_a_digit_has_priority_over_an_index() -> None:
    assert ClassNames.of(["3", "1", "0"]).find_index("0") == 2


def test_a_name_in_the_same_case_wins() -> None:
    assert [BIRDS.find_index(word) for word in ("crane", "Crane", " Crane ")] == [1, 2, 2]
    synonyms = ClassNames.of(["a, Cat", "b, cat"])
    assert [synonyms.find_index(word) for word in ("Cat", "cat")] == [0, 1]
    with pytest.raises(TargetError, match="names the classes 0, 1; give the index"):
        synonyms.find_index("CAT")


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["tabby, tabby cat", "hen"], ["tabby", "hen"]),
        (["car, red", "car, blue", "van, red"], ["car, red", "car, blue", "van"]),
        (["maillot", "maillot, tank suit"], ["maillot", "maillot, tank suit"]),
        (["ü", "ü", "o"], ["ü (0)", "ü (1)", "o"]),
        (["car, red", "car, red", "car"], ["car, red (0)", "car, red (1)", "car"]),
        (["Cat, a", "cat, b"], ["Cat, a", "cat, b"]),
        (["Cat", "cat"], ["Cat", "cat"]),
        (["", ", b", "c"], ["(0)", ", b", "c"]),
    ],
)
def test_short_names_tell_classes_apart(names: list[str], short: list[str]) -> None:
    assert list(ClassNames.of(names).short_names) == short


def test_a_whole_name_has_priority_over_a_synonym() -> None:
    assert ClassNames.of(["crane, bird", "crane"]).find_index("crane") == 1


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("CRANE", "names the classes 1, 2; give the index"),
        ("tinca tinka", "no class is called 'tinca tinka'; did you mean Tinca tinca?"),
        ("zzz", "no class is called 'zzz'$"),
        ("all", "no class is called 'all'; only apercu explain takes all classes"),
        ("top", "no class is called 'top'; in Python None is the predicted class"),
        ("4", "from 0 to 3, got 4"),
        ("-1", "from 0 to 3, got -1"),
        ("--5", "no class is called '--5'"),
        ("²", "no class is called '²'"),
        ("9" * 5000, "no class is called '999"),
        (-1, "from 0 to 3, got -1"),
    ],
)
def test_words_that_name_no_class(word: str | int, match: str) -> None:
    with pytest.raises(TargetError, match=match):
        BIRDS.find_index(word)


def test_files_hold_names_or_identifiers_and_names(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("cat\ndog\n")
    assert ClassNames.read(path) == ClassNames.of(["cat", "dog"])
    BIRDS.write(path)
    assert ClassNames.read(path) == BIRDS


@pytest.mark.parametrize("content", ["", "n1\tcat\ndog\n"])
def test_files_that_are_wrong(tmp_path: Path, content: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(content)
    with pytest.raises(ClassifierError, match="expected one class per line"):
        ClassNames.read(path)
    with pytest.raises(ClassifierError, match="No such file"):
        ClassNames.read(tmp_path / "other.txt")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (["a", "b", 3], ("a", "b", "3")),
        ({"0": "a", "2": "c", "1": "b"}, ("a", "b", "c")),
        ({"e": 2, "b": 1, "x": 0}, ("x", "b", "e")),
        ({"0": 1, "1": 0}, ("1", "0")),
        ({"1": ["n1", "bee"], "0": ["n0", "ant"]}, ("ant", "bee")),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_lists_and_dictionaries_are_read_in_the_order_of_the_logits(
    content: Any, names: tuple[str, ...], indent: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content, indent=indent))
    assert ClassNames.read(path) == ClassNames.collect(content, "classes")
    assert ClassNames.read(path).names == names


def test_numbers_are_keys_in_python() -> None:
    assert ClassNames.collect({1: "b", np.int64(0): "a"}, "classes").names == ("a", "b")
    assert ClassNames.collect({"b": np.int64(1), "a": 0}, "classes").names == ("a", "b")
    assert ClassNames.collect({"b": 1, "a": 0}.keys(), "classes").names == ("b", "a")


@pytest.mark.parametrize(
    ("classes", "match"),
    [
        ({"a", "b"}, "a set has no order; pass a list of names"),
        ({1: "a", 2: "b"}, r"each index from 0 to 1 once, got \[1, 2\]"),
        ({"a": 0, "b": 0}, r"each index from 0 to 1 once, got \[0, 0\]"),
        ({"a": 0.0, "b": 1.0}, r"expected a list of names, {index: name} or {name: index}"),
        ({"a": "b"}, r"expected a list of names, {index: name} or {name: index}"),
        ({"a": True, "b": False}, r"expected a list of names, {index: name} or {name: index}"),
        ([{"id": 0, "name": "a"}], "expected names of classes, got {'id': 0, 'name': 'a'}"),
        ({0: ["n0", "a", 0.5]}, "expected names of classes, got"),
        ([None, "b"], "expected names of classes, got None"),
        ([(1, "b"), (0, "a")], r"expected names of classes, got \(1, 'b'\)"),
    ],
)
def test_names_without_an_order_are_refused(classes: Any, match: str) -> None:
    with pytest.raises(ClassifierError, match=f"^classes: .*{match}") as caught:
        ClassNames.collect(classes, "classes")
    assert "\n" not in str(caught.value)


THREE = ("ant", "bee, honey bee", "cat")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "0: ant\n1: bee, honey bee\n2: cat\n"),
        ("a.txt", "0:ant\r\n1:bee, honey bee\r\n2:cat\r\n"),
        ("a.txt", "2 cat\n0 ant\n\n1 bee, honey bee\n"),
        ("a.txt", "2\tcat\n0\tant\n1\tbee, honey bee\n"),
        ("a.txt", "n00000001 ant\nn00000002 bee, honey bee\nn00000003 cat\n"),
        ("a.txt", "{0: 'ant',\n 1: 'bee, honey bee',\n 2: \"cat\"}"),
        ("a.txt", "['ant', 'bee, honey bee', 'cat']"),
        ("a.csv", 'index,name\n0,ant\n1,"bee, honey bee"\n2,cat\n'),
        ("a.csv", 'Name;Count;Class ID\ncat;5;2\nant;5;0\n"bee, honey bee";5;1\n'),
        ("a.csv", '1,"bee, honey bee"\n0,ant\n2,cat\n'),
        ("a.csv", '"bee, honey bee",1\nant,0\ncat,2\n'),
        ("a.csv", 'class\nant\n"bee, honey bee"\ncat\n'),
        ("a.json", '{"id2label": {"1": "bee, honey bee", "0": "ant", "2": "cat"}, "size": 8}'),
        ("a.json", '{"label2id": {"cat": 2, "bee, honey bee": 1, "ant": 0}}'),
        ("a.json", '{"names": ["ant", "bee, honey bee", "cat"], "nc": 3}'),
        (
            "a.json",
            '{"categories": [{"id": 1, "name": "bee, honey bee"}, {"id": 0, "name": "ant"}, '
            '{"id": 2, "name": "cat", "supercategory": "pet"}]}',
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_numbers_of_a_file_are_the_order(
    name: str, content: str, encoding: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, encoding=encoding)
    names = ClassNames.read(tmp_path / name)
    assert names.names == THREE
    names.write(tmp_path / "again.txt")
    assert ClassNames.read(tmp_path / "again.txt") == names
    assert names.find_index("honey bee") == 1


@pytest.mark.parametrize(
    "lines",
    [
        ["tench, Tinca tinca", "goldfish, Carassius"],
        ["0,5 mm", "1,0 mm"],
        ["0 people", "2 people", "1 person", "3 people"],
        ["1 euro", "2 euro"],
        ["class 1", "class 0"],
        ["1", "0"],
        ["name", "label"],
    ],
)
def test_numbers_in_names_are_no_order(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(lines))
    assert ClassNames.read(path) == ClassNames.of(lines)
    ClassNames.of(lines).write(path)
    assert ClassNames.read(path) == ClassNames.of(lines)


def test_identifiers_that_are_numbers_in_another_order_are_kept(tmp_path: Path) -> None:
    names = ClassNames.of(["x", "y", "z"], ["2", "0", "1"])
    names.write(tmp_path / "classes.txt")
    assert ClassNames.read(tmp_path / "classes.txt") == names


@pytest.mark.parametrize(
    "content", ["1,a\n2,b\n", "a,1\nb,1\n", "id;name\n1;a\n2;b\n", "index,name\n0,a\nx,b\n"]
)
def test_numbers_that_do_not_count_from_0_are_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    match = r"a\.csv: expected the numbers 0 to 1 each once, got \w, \w; number the classes in"
    with pytest.raises(ClassifierError, match=match):
        ClassNames.read(tmp_path / "a.csv")


def test_files_like_json(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("[unknown]\n{cat}\n")
    assert ClassNames.read(path).names == ("[unknown]", "{cat}")
    for broken in ('[\n "a",\n "b"\n', "{}", "[]"):
        path.write_text(broken)
        with pytest.raises(ClassifierError, match=r"classes\.txt: (broken JSON|it holds no names)"):
            ClassNames.read(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_files_of_other_encodings_are_told(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("cat\ndog\n".encode(encoding))
    with pytest.raises(ClassifierError, match="no UTF-8 text; expected one name per line"):
        ClassNames.read(path)


def test_marks_inside_of_a_file_are_no_part_of_names(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\ufeffcat\n\ufeffdog\n", encoding="utf-8")  # two files joined
    assert ClassNames.read(path).names == ("cat", "dog")


@pytest.mark.parametrize("suffix", [".yaml", ".YML", ".jsonl"])
def test_kinds_of_files_that_are_not_read_are_told(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"classes{suffix}"
    path.write_text("- cat\n- dog\n")
    with pytest.raises(ClassifierError, match=f"{suffix.lower()} is not read; write one name"):
        ClassNames.read(path)
