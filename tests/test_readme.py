"""The examples of the README run, and what it names exists."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apercu.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _commands(program: str) -> list[list[str]]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    words = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    inline = [shlex.split(code) for code in re.findall(r"`([^`\n]+)`", README)]
    return [command for command in words + inline if command[:1] == [program]]


@pytest.fixture
def folder(tiny_run: Path, tiny_card: Path, tmp_path: Path, monkeypatch) -> Path:
    """A working directory as the README imagines it, with small things in the places of big."""
    shutil.copytree(tiny_run, tmp_path / "runs" / "mobilenet")
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for name in ("cat", *(f"photo-{number}" for number in range(23))):
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_blocks_run(folder: Path, tiny_card: Path, monkeypatch) -> None:
    import apercu
    from apercu.explainers.mask.settings import MASK_PRESETS

    small = {
        "preset": "small",
        "decoder": {"width": 16},
        "embedding": {"steps": 2, "batch": 4},
        "schedule": {"steps": 2, "batch": 4},
    }
    opened = apercu.open_classifier(tiny_card)
    monkeypatch.setitem(vars(apercu), "open_classifier", lambda spec: opened)
    monkeypatch.setitem(vars(apercu), "read_settings", lambda name: MASK_PRESETS.parse(small))
    explaining, training = _blocks("python")
    names: dict[str, object] = {}
    exec(explaining, names)
    masks, region, classes = (names[name] for name in ("masks", "region", "classes"))
    assert masks.shape == region.shape == (1, 32, 32)
    assert classes.shape == (1,)
    exec(training, names)
    assert (folder / "runs" / "mobilenet-2" / "weights.safetensors").is_file()


@pytest.mark.parametrize("command", _commands("apercu"), ids=" ".join)
def test_the_commands_are_understood(command: list[str], capsys) -> None:
    verb = [word for word in command[1:3] if not word.startswith("-") and "/" not in word]
    with pytest.raises(SystemExit, match="0"):
        main([*verb, "--help"])
    shown = capsys.readouterr().out
    for word in command:
        if word.startswith("--"):
            assert word in shown


def test_the_readme_names_the_main_commands() -> None:
    verbs = {command[1] for command in _commands("apercu")}
    assert {"train", "explain", "compare"} <= verbs


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {word for command in _commands("make") for word in command[1:]}
    assert used
    assert used <= targets


def test_the_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if not link.startswith("http")]
    assert local
    for link in local:
        assert (ROOT / link).exists(), link
