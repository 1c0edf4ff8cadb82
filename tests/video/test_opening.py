"""Engines of a video leave the cores to its other threads, and take pictures that videos have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from apercu.deploy.inference import open_engine as opened
from apercu.deploy.video import open_video_engine
from apercu.errors import RunError


def test_threads_of_an_export_do_not_spin(tiny_export) -> None:
    options = open_video_engine(tiny_export).session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("input", "words"),
    [
        ({"channels": 5, "size": [32, 32]}, "images of 5 channels, which a video does not have"),
        ({"channels": 3, "size": [32, 32], "range": "counts"}, "images of raw counts"),
    ],
)
def test_images_that_no_video_has_are_told(tiny_export, tmp_path, input: dict, words: str) -> None:
    copy = Path(shutil.copytree(tiny_export, tmp_path / "exported"))
    path = copy / "explainer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "input": input}))
    assert opened(copy).input.channels == input["channels"]
    with pytest.raises(RunError, match=words):
        open_video_engine(copy)
