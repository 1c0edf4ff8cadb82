"""The examples of the README and of the first how-to pages run, and what they name exists."""

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
HOWTOS = tuple(
    f"docs/howto/{name}.md"
    for name in ("explain-images", "compare-methods", "train-an-explainer", "long-trainings")
)
"""Pages whose blocks of Python run one after the other, in one session."""
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", *HOWTOS)}


def find_blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def find_commands(program: str) -> list[list[str]]:
    lines = [
        line for page in PAGES for block in find_blocks(page, "sh") for line in block.splitlines()
    ]
    words = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    inline = [
        shlex.split(code) for page in PAGES for code in re.findall(r"`([^`\n]+)`", PAGES[page])
    ]
    return [one for one in words + inline if one[:1] == [program] and "VERB" not in one]


@pytest.fixture
def folder(tiny_run: Path, tmp_path: Path, monkeypatch) -> Path:
    """A working directory as the pages imagine it, with small things in the places of big ones."""
    shutil.copytree(tiny_run, tmp_path / "runs" / "mobilenet")
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for name in ("cat", *(f"photo-{number}" for number in range(23))):
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_package(tiny_card: Path, monkeypatch) -> None:
    """The package with a tiny classifier in place of MobileNetV2, and tiny settings."""
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
    monkeypatch.setattr(type(MASK_PRESETS), "read", lambda presets, name: presets.parse(small))


def test_the_python_block_of_the_readme_runs(folder: Path, small_package: None) -> None:
    (block,) = find_blocks("README.md", "python")
    exec(block.replace('"tabby"', "1"), {})
    assert (folder / "runs" / "mine" / "weights.safetensors").is_file()
    assert list((folder / "maps").glob("*overlay*"))


def test_the_python_blocks_of_the_howtos_run(folder: Path, small_package: None, capsys) -> None:
    names: dict[str, object] = {}
    for page in HOWTOS:
        for block in find_blocks(page, "python"):
            exec(block, names)
    maps, region, predicted = (names[name] for name in ("maps", "region", "predicted"))
    assert maps.shape == region.shape == (1, 32, 32)
    assert predicted.shape == (1,)
    assert (folder / "overlay.png").is_file()
    assert (folder / "runs" / "mobilenet-2" / "weights.safetensors").is_file()
    assert "grad_cam" in capsys.readouterr().out


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].split()) <= 600


@pytest.mark.parametrize("command", find_commands("apercu"), ids=" ".join)
def test_the_commands_are_understood(command: list[str], capsys) -> None:
    verb = [word for word in command[1:3] if not word.startswith("-") and "/" not in word]
    with pytest.raises(SystemExit, match="0"):
        main([*verb, "--help"])
    output = capsys.readouterr().out
    for word in command:
        if word.startswith("--"):
            assert word in output


def test_the_readme_names_the_main_commands() -> None:
    verbs = {command[1] for command in find_commands("apercu")}
    assert {"train", "explain", "compare"} <= verbs


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {word for command in find_commands("make") for word in command[1:]}
    assert used
    assert used <= targets


@pytest.mark.parametrize("page", PAGES)
def test_the_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    generated = ("settings.md", "commands.md", "python.md")
    local = [
        link for link in links if not link.startswith("http") and Path(link).name not in generated
    ]
    assert local
    for link in local:
        assert ((ROOT / page).parent / link).exists(), link
