"""Charts: points and lines lie where their values say, labels do not cover each other."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from apercu.pages.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    LearningPoint,
    ScatterPoint,
    draw_learning_curves,
    draw_lines,
    draw_scatter,
)

POINTS = [
    ScatterPoint("slow", 1000.0, 0.2, False),
    ScatterPoint("mask", 10.0, 0.1, True),
    ScatterPoint("fast <b>", 1.0, 0.9, False),
]


def circles(drawing: str) -> dict[str, tuple[float, float]]:
    """Centres by name, from the titles that people see when they point at them."""
    centres = {}
    for group in ElementTree.fromstring(drawing).iter("g"):
        title, circle = group.find("title"), group.find("circle")
        assert title is not None and title.text is not None and circle is not None
        centres[title.text.split(":")[0]] = (float(circle.get("cx", 0)), float(circle.get("cy", 0)))
    return centres


def test_points_lie_at_the_logarithm_of_their_cost() -> None:
    at = circles(draw_scatter(POINTS, "ms", "error"))
    wide = WIDTH - LEFT - RIGHT
    assert [at[name][0] for name in ("fast <b>", "mask", "slow")] == pytest.approx(
        [LEFT, LEFT + wide / 3, LEFT + wide], abs=0.06
    )
    heights = {name: y for name, (_, y) in at.items()}
    assert heights["fast <b>"] < heights["slow"] < heights["mask"]
    ratio = (heights["mask"] - heights["slow"]) / (heights["mask"] - heights["fast <b>"])
    assert ratio == pytest.approx(1 / 8, abs=1e-3)
    assert all(TOP <= y <= HEIGHT - BOTTOM for y in heights.values())


def test_a_marked_point_keeps_its_label_and_a_crowded_one_may_lose_it() -> None:
    crowd = [ScatterPoint(f"method number {n}", 10.0, 0.1, n == 9) for n in range(10)]
    drawing = draw_scatter([*crowd, ScatterPoint("far", 0.1, 0.9, False)], "ms", "error")
    labels = [text.text for text in ElementTree.fromstring(drawing).iter("text")]
    named = [label for label in labels if label is not None and label.startswith("method")]
    assert "method number 9" in named
    assert 1 <= len(named) < 10
    assert "far" in labels
    assert len(circles(drawing)) == 11


def test_a_long_marked_label_is_moved_into_the_drawing() -> None:
    name = "mask:run=photographs-2026-of-a-long-name"
    drawing = draw_scatter([ScatterPoint(name, 10.0, 0.5, True), *POINTS], "ms", "error")
    assert name in [text.text for text in ElementTree.fromstring(drawing).iter("text")]


def test_one_value_for_all_is_drawn_too() -> None:
    assert (
        len(
            circles(
                draw_scatter(
                    [ScatterPoint("a", 5.0, 1.0, True), ScatterPoint("b", 5.0, 1.0, False)], "", ""
                )
            )
        )
        == 2
    )


def test_curves_run_from_edge_to_edge_and_have_the_colours_of_their_names() -> None:
    curves = {f"curve {n}": [1.0, 0.5, 0.0] for n in range(8)} | {"mask": [0.8, 0.2]}
    coloured = ["mask", *(f"curve {n}" for n in range(5))]
    drawing = draw_lines(curves, coloured, {"mask"}, "pixels")
    polylines = {
        title.text: line
        for line in ElementTree.fromstring(drawing).iter("polyline")
        for title in line.iter("title")
    }
    assert polylines["mask"].get("class") == "s0 marked"
    assert polylines["curve 4"].get("class") == "s5"
    assert polylines["curve 5"].get("class") == "rest"
    pairs = polylines["curve 0"].get("points", "").split(" ")
    places = [tuple(map(float, pair.split(","))) for pair in pairs]
    across, down = zip(*places, strict=True)
    assert across == pytest.approx((LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT))
    assert down[2] == HEIGHT - BOTTOM
    assert down[1] - down[0] == pytest.approx(down[2] - down[1], abs=0.15)


def test_curves_lie_where_their_values_are_said_to_be() -> None:
    curves, places = {"loss": [0.5, 0.25]}, [10.0, 15.0]
    drawing = draw_lines(curves, ("loss",), (), "step", x_end=20.0, x_values=places)
    polyline = next(ElementTree.fromstring(drawing).iter("polyline"))
    across = [float(pair.split(",")[0]) for pair in polyline.get("points", "").split(" ")]
    wide = WIDTH - LEFT - RIGHT
    assert across == pytest.approx([LEFT + wide / 2, LEFT + 3 * wide / 4], abs=0.06)


def test_learning_curves_lie_at_the_logarithm_of_their_labels() -> None:
    curves = {
        "one": [
            LearningPoint(10, 0.5, 0.4, 0.6),
            LearningPoint(100, 0.7, 0.6, 0.8),
            LearningPoint(1000, 0.9, 0.85, 0.95),
        ],
        "other": [LearningPoint(10, 0.4, 0.3, 0.5), LearningPoint(1000, 0.6, 0.5, 0.7)],
    }
    tree = ElementTree.fromstring(draw_learning_curves(curves, ["one", "other"], "accuracy"))
    paths = [line.get("points", "") for line in tree.iter("polyline")]
    first, middle, last = (tuple(map(float, at.split(","))) for at in paths[0].split())
    assert middle[0] == pytest.approx((first[0] + last[0]) / 2, abs=0.1)
    assert first[1] > middle[1] > last[1]
    assert first[0] > LEFT and last[0] < WIDTH - RIGHT
    uprights = [
        path.get("d", "") for path in tree.iter("path") if path.get("class") in ("s0", "s1")
    ]
    assert len(uprights) == 5
    assert uprights[0].startswith(f"M{first[0]}")
