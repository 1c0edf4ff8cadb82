"""The words that people may type for a class."""

from __future__ import annotations

from pathlib import Path

import pytest

from apercu.classifiers.names import ClassNames
from apercu.errors import ClassifierError, TargetError

BIRDS = ClassNames.of(["tench, Tinca tinca", "crane", "Crane", "hen"], ["n1", "n2", "n3", "n4"])


@pytest.mark.parametrize(
    ("word", "index"),
    [("hen", 3), ("HEN ", 3), ("tench", 0), ("Tinca tinca", 0), ("N2", 1), ("2", 2), (2, 2)],
)
def test_names_synonyms_identifiers_and_indices(word: str | int, index: int) -> None:
    assert BIRDS.find_index(word) == index


def test_the_name_of_a_digit_has_priority_over_an_index() -> None:
    assert ClassNames.of(["3", "1", "0"]).find_index("0") == 2


def test_a_whole_name_has_priority_over_a_synonym() -> None:
    assert ClassNames.of(["crane, bird", "crane"]).find_index("crane") == 1


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("crane", "names the classes 1, 2; give the index"),
        ("tinca tinka", "no class is called 'tinca tinka'; did you mean Tinca tinca?"),
        ("zzz", "no class is called 'zzz'$"),
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
