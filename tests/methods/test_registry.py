"""Methods by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import apercu.methods
from apercu.errors import ConfigError
from apercu.methods import Augmented, GradCam, Rise, Smoothed, TrueBox
from apercu.methods.registry import METHODS


def test_a_method_by_name() -> None:
    assert apercu.methods.get("grad_cam") == GradCam()
    assert apercu.methods.get(" rise:masks=400,seed=1 ") == Rise(masks=400, seed=1)
    assert apercu.methods.get("grad_cam:augmented=8") == Augmented(GradCam(), 8)
    assert apercu.methods.get("rise:masks=9,smoothed=0.1") == Smoothed(Rise(masks=9), 0.1)
    assert apercu.methods.get("true_box") == TrueBox()


def test_every_name_gives_its_method() -> None:
    assert apercu.methods.names() == tuple(METHODS)
    for name in apercu.methods.names():
        assert apercu.methods.get(name) == METHODS[name]()


def test_slow_methods_are_known() -> None:
    slow = {name for name, method in METHODS.items() if method.slow}
    assert slow == {"rise", "mfpp", "meaningful_perturbation", "smooth_taylor"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("gradcam", "got gradcam; did you mean grad_cam"),
        ("rise:maks=4", "rise has no setting maks, .*; did you mean masks"),
        ("rise:masks=many", "expected int for rise:masks, got 'many'"),
        ("true_box:augmented=2", "true_box knows the truth and takes no augmented"),
        ("", "expected some of gradient"),
    ],
)
def test_a_misspelt_method_is_one_clear_line(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        apercu.methods.get(text)


def test_every_method_stands_in_the_page_of_methods() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "methods.md"
    rows = [
        line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(METHODS)
    slow = {
        name
        for name in named
        for row in rows
        if f"`{name}`" in row.split("|")[1] and "(slow)" in row
    }
    assert slow == {name for name, method in METHODS.items() if method.slow}
