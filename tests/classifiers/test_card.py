"""Cards: what is read, and that all mistakes are reported at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apercu.classifiers.card import ClassifierCard, InputSpec, read_card, write_card
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
