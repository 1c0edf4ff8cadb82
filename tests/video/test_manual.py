"""docs/howto/video.md names what there is, with the numbers that the code has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from apercu.cli import main
from apercu.deploy.video import frame_explainer, motion, source, writer
from apercu.deploy.video.pipeline import QUEUE_SIZE

MANUAL = (Path(__file__).parents[2] / "docs" / "howto" / "video.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", MANUAL, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.splitlines()]


def test_the_options_exist(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["video", "--help"])
    output = capsys.readouterr().out
    table = re.findall(r"^\| `(--[a-z]+)", MANUAL, re.MULTILINE)
    used = [word for command in COMMANDS for word in command if word.startswith("--")]
    assert len(table) == 5
    assert len(used) >= 3
    for option in (*table, *used):
        assert option in output


def test_the_numbers_are_those_of_the_code() -> None:
    text = " ".join(MANUAL.split())
    assert f"a half-life of {frame_explainer.CLASS_HALF_LIFE} seconds" in text
    assert f"{frame_explainer.SWITCH_RATIO} times that of the present one" in text
    assert f"more than {motion.SCENE_CUT_CHANGE} of the range" in text
    assert f"at {motion.MOTION_SIDE} × {motion.MOTION_SIDE}" in text
    assert (QUEUE_SIZE, source.TIMEOUT) == (8, 10)
    assert "at most eight frames wait" in text
    assert "nothing for ten seconds" in text
    for suffix in writer.FORMATS:
        assert f"`{suffix}`" in text
