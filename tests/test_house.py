"""The rules of the house: names, docstrings, files and imports, over the syntax trees.

`make house` prints the figures; `python tests/house.py FOLDER` prints what breaks a rule.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load_house() -> ModuleType:
    """The module beside this file, which is a script and no part of a package."""
    path = Path(__file__).with_name("house.py")
    specification = importlib.util.spec_from_file_location("house", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["house"] = module
    specification.loader.exec_module(module)
    return module


house = load_house()
FILES = house.find_files()


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    return house.measure_house()


def test_functions_begin_with_a_verb(figures: dict[str, float]) -> None:
    assert figures["functions named by a participle, %"] <= 2
    assert figures["functions that begin with a verb, %"] >= 55


def test_a_class_name_is_defined_once() -> None:
    assert house.find_duplicate_classes(FILES) == {}


def test_what_is_said_of_an_argument_has_a_subject() -> None:
    lines = [line for path in FILES for line in house.find_argument_lines(path)]
    assert len(lines) > 1000
    assert [line for line in lines if not house.has_subject(line[2])] == []


def test_public_docstrings_are_sentences() -> None:
    assert [offence for path in FILES for offence in house.find_weak_docstrings(path)] == []


def test_functions_with_arguments_say_what_they_return() -> None:
    assert [offence for path in FILES for offence in house.find_missing_returns(path)] == []


def test_files_are_concepts(figures: dict[str, float]) -> None:
    assert figures["source files, without families"] <= 311
    assert 100 <= figures["median lines of a file"] <= 180
    assert figures["longest file"] <= 400


def test_imports_are_few(figures: dict[str, float]) -> None:
    assert figures["import lines, %"] <= 10
    assert figures["import depth"] <= 17


@pytest.mark.parametrize(
    ("name", "is_participle", "begins_with_verb"),
    [
        ("told", True, False),
        ("drawn_anew", True, False),
        ("_measured", True, False),
        ("read_picture", False, True),
        ("_embed", False, True),
        ("seed_everything", False, True),
        ("is_export", False, True),
        ("label", False, False),
        ("label_images", False, True),
        ("iou", False, False),
    ],
)
def test_the_rules_know_verbs(name: str, is_participle: bool, begins_with_verb: bool) -> None:
    (node,) = house.ast.parse(f"def {name}(): ...").body
    function = house.Function(Path(__file__), node)
    assert function.is_participle is is_participle
    assert function.begins_with_verb is begins_with_verb
