"""Cards: what is read, and that all mistakes are reported at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from apercu.classifiers.card import ClassifierCard, InputSpec, read_card, write_card
from apercu.classifiers.trust import trust_files
from apercu.errors import ClassifierError

GOOD: dict[str, Any] = {
    "source": "net.onnx",
    "input": {"channels": 1, "size": [8, 6], "resize": 9, "mean": [0.5], "std": [0.25]},
    "output": "probability",
    "classes": ["no", "yes"],
}


def _write(folder: Path, content: object) -> Path:
    path = folder / "card.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_card_is_read_with_its_paths_resolved(tmp_path: Path) -> None:
    card = read_card(_write(tmp_path, {**GOOD, "weights": "a/w.safetensors"}))
    assert card.source == str(tmp_path / "net.onnx")
    assert card.weights == str(tmp_path / "a/w.safetensors")
    assert card.input == InputSpec(channels=1, size=(8, 6), resize=9, mean=(0.5,), std=(0.25,))
    assert (card.output, card.classes) == ("probability", ("no", "yes"))


def test_a_name_is_no_path(tmp_path: Path) -> None:
    card = read_card(_write(tmp_path, {"source": "timm/resnet18", "classes": "names.txt"}))
    assert card.source == "timm/resnet18"
    assert card.classes == str(tmp_path / "names.txt")


def test_a_written_card_is_read_again(tmp_path: Path) -> None:
    card = ClassifierCard.model_validate({**GOOD, "source": "a.b:make", "options": {"width": 3}})
    write_card(card, tmp_path / "card.json")
    assert read_card(tmp_path / "card.json") == card


@pytest.mark.parametrize(
    ("filter", "match"),
    [
        (
            "jpg",
            r"filter: expected some of none, floyd_steinberg, .*, got jpg; did you mean jpeg\?$",
        ),
        ("jpeg:qualty=75", r"filter: jpeg has no setting qualty, .*did you mean quality\?"),
        ("jpeg:quality=500", r"filter: jpeg: quality: expected a whole number .*, got 500$"),
        ("bit_depth:bits=few", r"filter: expected int for bit_depth:bits, got 'few'$"),
        (7, r"filter: input should be a valid string, got 7$"),
    ],
)
def test_a_filter_that_does_not_exist(filter: object, match: str, tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=match):
        read_card(_write(tmp_path, {**GOOD, "filter": filter}))


def test_classifiers_of_raw_counts_take_no_filter(tmp_path: Path) -> None:
    counts = {"channels": 1, "size": [8, 6], "normalise": "l2_per_channel"}
    with pytest.raises(ClassifierError, match=r"filter: filters take pixels in \[0, 1\], and this"):
        read_card(_write(tmp_path, {**GOOD, "input": counts, "filter": "median"}))
    stretch = {"low": [0], "high": [9], "noise": [1], "sky": False}
    stretched = {**GOOD, "input": {**counts, "stretch": stretch}, "filter": "median"}
    assert read_card(_write(tmp_path, stretched)).filter == "median"


def test_no_filter_is_none(tmp_path: Path) -> None:
    assert read_card(_write(tmp_path, {**GOOD, "filter": "none"})).filter is None


@pytest.mark.parametrize("guard", ["", ".", "./", "guard/..", "{folder}"])
def test_the_folder_of_the_card_is_no_guard(guard: str, tmp_path: Path) -> None:
    guard = guard.format(folder=tmp_path)
    card = _write(tmp_path, {**GOOD, "guard": guard})
    match = rf"card.json: guard {re.escape(repr(guard))}: expected a folder inside that of the card"
    with pytest.raises(ClassifierError, match=match):
        read_card(card)


def test_a_guard_that_holds_the_card_is_refused_of_a_trusted_card_too(tmp_path: Path) -> None:
    with (
        trust_files(),
        pytest.raises(ClassifierError, match=r"guard '\.\.': expected a folder ins"),
    ):
        read_card(_write(tmp_path, {**GOOD, "guard": ".."}))


@pytest.mark.parametrize("guard", [3, True, ["guard"], {"folder": "guard"}])
def test_a_guard_is_a_text(guard: object, tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"card.json: guard: input should be a valid string"):
        read_card(_write(tmp_path, {**GOOD, "guard": guard}))


def test_a_guard_is_looked_for_where_it_is_used(tmp_path: Path) -> None:
    card = _write(tmp_path, {**GOOD, "guard": "guard"})
    assert read_card(card).guard == str(tmp_path / "guard")


def test_all_mistakes_are_reported_at_once_with_the_nearest_keys(tmp_path: Path) -> None:
    wrong = {
        "sorce": "x",
        "input": {"sise": [8, 6], "channels": 0, "normalise": "l3"},
        "output": "logit",
        "classes": 7,
    }
    with pytest.raises(ClassifierError) as caught:
        read_card(_write(tmp_path, wrong))
    message = str(caught.value)
    for clause in (
        "sorce is no key of a card; did you mean source?",
        "source is missing",
        "input.sise is no key of a card; did you mean size?",
        "input.size is missing",
        "input.channels: input should be greater than or equal to 1, got 0",
        "input.normalise: input should be 'l2_per_channel', got 'l3'",
        "output: expected one of logits, ",
        "did you mean sigmoid?",
        "classes: expected the name of a file or a list of names, got 7",
    ):
        assert clause in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"size": [0, 4]}, "at least 1 pixel"),
        ({"size": [8, 6], "resize": 7}, "input.resize: must be at least as large as size"),
        ({"size": [8, 6], "mean": [1, 2]}, "input.mean: expected 3 values"),
        ({"size": [8, 6], "std": [1, 0, 1]}, "input.std: every number must be above 0"),
        (
            {"size": [8, 6], "mean": [1, 1, 1], "normalise": "l2_per_channel"},
            "either a rule or mean and std",
        ),
    ],
)
def test_inputs_that_contradict_themselves(
    tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    with pytest.raises(ClassifierError, match=match):
        read_card(_write(tmp_path, {"source": "a.b:c", "input": change}))


@pytest.mark.parametrize(
    ("content", "match"), [("{", "in JSON"), ("[1]", "JSON object"), ("", "in JSON")]
)
def test_files_that_are_no_card(tmp_path: Path, content: str, match: str) -> None:
    with pytest.raises(ClassifierError, match=match):
        read_card(_write(tmp_path, content))


def test_no_card(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="no such classifier card"):
        read_card(tmp_path / "card.json")
