"""`apercu card`: a card on stdout or in a file."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from apercu import open_classifier


def test_a_card_goes_to_stdout_or_into_a_file(apercu, tiny_card, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_card.parent)
    result = apercu("card", tiny_card.name, "--output", "sigmoid", "--mean", "0.5", "--std", "0.5")
    assert (result.code, result.err) == (0, "")
    card = json.loads(result.out)
    assert card["output"] == "sigmoid"
    assert set(card["input"]["mean"]) == {0.5}
    result = apercu("card", tiny_card, "--out", tmp_path / "new.json")
    assert result.code == 0
    assert result.out == f"written: {tmp_path / 'new.json'}\n"
    assert "outside of the folder of the card" in result.err
    before = open_classifier(tiny_card)
    after = open_classifier(tmp_path / "new.json", trust=True)
    assert after.fingerprint == before.fingerprint
    assert after.classes == before.classes


def test_a_card_with_a_filter(apercu, tiny_card, tmp_path) -> None:
    words = ("card", tiny_card, "--out", tmp_path / "new.json", "--filter")
    assert apercu(*words, "jpeg:quality=50").code == 0
    opened = open_classifier(tmp_path / "new.json", trust=True)
    assert opened.network.filter == "jpeg:quality=50"
    assert opened.without_filter().fingerprint == open_classifier(tiny_card).fingerprint
    result = apercu(*words, "jpg")
    assert result.code == 2
    assert result.err.endswith("got jpg; did you mean jpeg?\n") and result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "when"),
    [
        (("--filter", "jpeg:quality=50"), "without the filter jpeg:quality=50"),
        (("--mean", "0.4", "--std", "0.3"), "before --mean, --std"),
        (("--output", "sigmoid"), "before --output"),
        (("--resize", "40"), "before --resize"),
    ],
)
def test_a_changed_classifier_keeps_no_guard(apercu, tiny_card, tmp_path, options, when) -> None:
    """A guard is of one classifier; class names, or what was true before, change nothing."""
    folder = shutil.copytree(tiny_card.parent, tmp_path / "card")
    card = json.loads(tiny_card.read_text()) | {"guard": "guard", "temperature": 1.7}
    (folder / "card.json").write_text(json.dumps(card))

    def complete(*words: object) -> tuple[dict, list[str]]:
        result = apercu("card", folder / "card.json", *words, "--out", folder / "new.json")
        assert result.code == 0
        lines = [line for line in result.err.splitlines() if "guard" in line or "temp" in line]
        return json.loads((folder / "new.json").read_text()), lines

    content, (first, second) = complete(*options)
    assert first.startswith(f"warning: guard guard is left out, as {', '.join(options[::2])} makes")
    assert second.startswith(f"warning: temperature 1.7 was set {when}, so")
    assert "guard" not in content and content["temperature"] == 1.7
    (folder / "names.txt").write_text("".join(f"name {index}\n" for index in range(3)))
    for words in (("--classes", folder / "names.txt"), ("--size", "32"), ()):
        content, lines = complete(*words)
        assert (content["guard"], lines) == ("guard", [])


def test_a_card_with_a_temperature(apercu, tiny_card, tmp_path) -> None:
    path = tmp_path / "card.json"
    words = ("card", tiny_card, "--out", path)
    for temperature in (2.5, 1.5):  # the second one replaces the first without a warning
        result = apercu(*words, "--temperature", temperature)
        assert result.code == 0 and "temperature" not in result.err
        assert json.loads(path.read_text())["temperature"] == temperature
        words = ("card", path, "--out", path, "--trust")
    result = apercu("card", tiny_card, "--temperature", 0)
    assert (result.code, result.out) == (2, "")
    assert "temperature: input should be greater than 0" in result.err


@pytest.mark.parametrize(("name", "advice"), [("mine", "mine/card.json"), ("a.yml", "a.json")])
def test_a_file_that_no_verb_takes_for_a_card_is_refused(apercu, tmp_path, name, advice) -> None:
    result = apercu("card", "not/opened", "--out", tmp_path / name)
    expected = f"expected a name that ends in .json, such as {tmp_path / advice}"
    assert (result.code, result.err) == (2, f"error: {tmp_path / name}: {expected}\n")
    assert not (tmp_path / name).exists()


def test_the_help_names_the_page(apercu) -> None:
    result = apercu("card", "--help")
    assert result.code == 0
    assert "docs/reference/files/card.md" in re.sub(r"\s+", " ", result.out)


def test_numbers_that_are_none_are_refused(apercu, tiny_card) -> None:
    result = apercu("card", tiny_card, "--mean", "half")
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: --mean: expected numbers with commas, got 'half'\n"
