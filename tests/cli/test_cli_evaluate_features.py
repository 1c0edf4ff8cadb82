"""`apercu evaluate-features`: rows, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Bright and dark squares in folders of their class."""
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for name, base in (("bright", 170), ("dark", 30)):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = base + generator.integers(0, 50, (32, 32, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def test_the_command(apercu, tiny_card: Path, folders: Path) -> None:
    words = ("evaluate-features", "--network", f"tiny={tiny_card}", "--images", folders / "train")
    damaged = next((folders / "train").glob("*/0.png")).with_name("damaged.png")
    damaged.write_bytes(damaged.with_name("0.png").read_bytes()[:60])
    options = ("--test", folders / "test", "--fractions", "1/6,1", "--draws", "2", "--anew")
    result = apercu(*words, *options, "--out", folders / "out")
    assert result.code == 0, result.err
    content = json.loads((folders / "out" / "features.json").read_text())
    name = str(damaged.relative_to(folders / "train"))
    assert content["left_out"] == {str(folders / "train"): [name]}
    assert result.err.count("1 of 13 images cannot be read and are left out, the first becau") == 1
    rows = {(r["start"], r["head"], r["labels"], r["metric"]): r["value"] for r in content["rows"]}
    assert {start for start, *_ in rows} == {"tiny", "tiny, anew"}
    assert rows["tiny", "linear", 12, "accuracy"] == 1.0
    assert ("tiny, anew", "nearest", 2, "balanced_accuracy") in rows


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (("--network", "tiny"), "network: expected NAME=SPEC, got 'tiny'"),
        (("--heads", "liner"), "did you mean linear"),
        (("--fractions", "0,1"), "fractions: expected fractions above 0 and up to 1"),
        (("--fractions", "some"), "fractions: expected numbers such as 0.05, got 'some'"),
        (("--test", "plain"), "has no labels; use folders per class, or labels.csv"),
        (("--test", "other"), "cat is no class of the images to learn from"),
    ],
)
def test_bad_input(
    apercu, tiny_card: Path, folders: Path, extra: tuple[str, str], line: str
) -> None:
    (folders / "other" / "cat").mkdir(parents=True)
    picture = Image.new("RGB", (32, 32))
    picture.save(folders / "other" / "cat" / "1.png")
    (folders / "plain").mkdir()
    picture.save(folders / "plain" / "1.png")
    option, value = extra
    typed = (option, folders / value) if option == "--test" else extra
    options = {"--network": f"tiny={tiny_card}", "--test": folders / "test", option: typed[1]}
    words = [word for pair in options.items() for word in pair]
    result = apercu(
        "evaluate-features", *words, "--images", folders / "train", "--out", folders / "out"
    )
    assert (
        result.code == 2 and line in result.err.splitlines()[-1] and result.err.count("error:") == 1
    )


def test_test_images_that_are_learnt_from_are_counted(
    apercu, tiny_card: Path, folders: Path
) -> None:
    """Also under another path of the same files; folders without labels are not called labelled."""
    (folders / "part").mkdir()
    (folders / "part" / "bright").symlink_to(folders / "train" / "bright")
    (folders / "part" / "dark").mkdir()
    for number, part in enumerate(["train", "test", "test"]):
        link = folders / "part" / "dark" / f"{number}.png"
        link.symlink_to(folders / part / "dark" / link.name)
    words = ("evaluate-features", "--network", f"tiny={tiny_card}", "--images", folders / "train")
    options = ("--heads", "nearest", "--fractions", "1", "--draws", "1", "--out", folders / "out")
    result = apercu(*words, "--test", folders / "part", *options)
    assert result.code == 0, result.err
    assert "warning: 7 of 9 test images are also images to learn from" in result.out
    result = apercu(*words, "--test", folders / "test" / "**", *options)
    assert result.code == 2 and "has no labels" in result.err
    assert "test/**" not in result.out
