"""The report of an evaluation of features: one HTML file that opens offline, and a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from markupsafe import Markup
from PIL import Image, ImageDraw

from apercu import render
from apercu.errors import ConfigError
from apercu.io import write_file
from apercu.pages import (
    FEW_IMAGES,
    Figure,
    Finding,
    FindingLine,
    Mark,
    count_noun,
    embed_image,
    name_subject,
    render_page,
)
from apercu.pages.charts import MAX_COLOURS, LearningPoint, draw_learning_curves
from apercu.pretraining.few_labels import LearningCurveRow
from apercu.pretraining.heads.base import Features, LabelledFeatures

REPORT, TABLE = "report.html", "table.md"
METRIC = "balanced_accuracy"
ANEW = ", anew"
"""End of the name of a network whose weights were drawn at random."""
MAX_SAVINGS = 3
"""Comparisons of labels that the finding names, at most."""
GROUPS = {
    False: ("Networks", ""),
    True: ("Random weights", "the same network that has learnt nothing before"),
}
"""Title and note of the networks, and of those with random weights."""


class LabelSaving(NamedTuple):
    """The number of labels with which one network is as good as another with more labels.

    Attributes:
        head: name of the head.
        start: name of the network that needs fewer labels.
        other: name of the network that needs more.
        value: balanced accuracy of both.
        labels: number of labels of the other network.
        needed: number of labels of the network, interpolated along its curve.
        at_most: whether the first point of its curve is already as good.
    """

    head: str
    start: str
    other: str
    value: float
    labels: int
    needed: float
    at_most: bool


def find_savings(rows: Sequence[LearningCurveRow]) -> list[LabelSaving]:
    """Compare every network with every other one, for each head.

    The comparison is at the largest number of labels of the other for which the network needs
    fewer.
    """
    savings = []
    curves = _group_curves(rows)
    for head, starts in curves.items():
        for start, points in starts.items():
            for other, other_points in starts.items():
                if other == start:
                    continue
                for point in reversed(other_points):
                    needed = interpolate_labels(point.value, points)
                    if needed < point.labels:
                        at_most = needed <= points[0].labels
                        key = (head, start, other, point.value, point.labels, needed, at_most)
                        savings.append(LabelSaving(*key))
                        break
    return savings


def interpolate_labels(value: float, points: Sequence[LearningPoint]) -> float:
    """Interpolate the number of labels at which a curve first reaches a value.

    The interpolation is linear in the logarithm of the labels; infinity where it never does.

    >>> points = [LearningPoint(10, 0.5, 0.5, 0.5), LearningPoint(1000, 0.9, 0.9, 0.9)]
    >>> [round(interpolate_labels(value, points)) for value in (0.7, 0.4)]
    [100, 10]
    >>> interpolate_labels(0.95, points)
    inf
    """
    if points[0].value >= value:
        return float(points[0].labels)
    for before, after in pairwise(points):
        if after.value >= value:
            fraction = (value - before.value) / (after.value - before.value)
            low, high = math.log(before.labels), math.log(after.labels)
            return math.exp(low + fraction * (high - low))
    return math.inf


def write_report(
    rows: Sequence[LearningCurveRow],
    plots: Mapping[str, Image.Image],
    content: Mapping[str, Any],
    folder: Path,
) -> Path:
    """Write `report.html`, and its table as `table.md`.

    Args:
        rows: rows of all networks and heads.
        plots: pictures of the features by the name of the network.
        content: content of `features.json` besides the rows.
        folder: folder of the report.

    Returns:
        The path of the report.

    Raises:
        OutputError: the folder cannot be written.
    """
    coloured = list(dict.fromkeys(name_network(row.start) for row in rows))[:MAX_COLOURS]
    charts = [
        {
            "title": head,
            "drawing": Markup(
                draw_learning_curves(
                    {name_network(start): points for start, points in starts.items()},
                    coloured,
                    "balanced accuracy",
                )
            ),
            "names": coloured,
            "others": "",
        }
        for head, starts in _group_curves(rows).items()
    ]
    counts = sorted({row.labels for row in rows})
    lines = list(_make_table(rows, counts))
    page = render_page(
        (files("apercu.pretraining") / "features.html").read_text(encoding="utf-8"),
        finding=write_finding(rows, content),
        about=content,
        charts=charts,
        counts=counts,
        groups=[
            (*GROUPS[is_anew], [line for line in lines if line[0].endswith(ANEW) == is_anew])
            for is_anew in (False, True)
            if any(line[0].endswith(ANEW) == is_anew for line in lines)
        ],
        savings=find_savings(rows),
        plots=[
            Figure(
                name_network(name),
                embed_image(picture, picture.width),
                f"images of the test where the features of {name_network(name)} lie; "
                "frames have the colour of the class",
            )
            for name, picture in plots.items()
        ],
        name_network=name_network,
    )
    write_file(folder / TABLE, format_markdown(rows))
    return write_file(folder / REPORT, page)


def name_network(start: str) -> str:
    """Return the name of a network as people read it.

    >>> name_network("small"), name_network("small, anew")
    ('small', 'small with random weights')
    """
    return f"{start.removesuffix(ANEW)} with random weights" if start.endswith(ANEW) else start


def write_finding(rows: Sequence[LearningCurveRow], content: Mapping[str, Any]) -> Finding:
    """Return what an evaluation found: which network is best where labels are few, and how sure.

    Two accuracies differ clearly where their 95 % intervals do not overlap. Networks with random
    weights do not compete: they are what the others should be better than.

    Args:
        rows: rows of all networks and heads.
        content: content of `features.json` besides the rows.

    Returns:
        The sentences.
    """
    rows = [row for row in rows if row.metric == METRIC]
    counts = sorted({row.labels for row in rows})
    n = max(row.n for row in rows)
    certainty = (
        f"Balanced accuracy, the mean of the accuracies of the classes (by chance "
        f"{1 / max(1, len(content['classes'])):.0%}), on {count_noun(n, 'image')} of "
        f"{name_subject(str(content['test']))}; each value is the mean of "
        f"{count_noun(max(row.draws for row in rows), 'draw')} of the labels. “Clearly” means "
        "more than chance: the 95\u00a0% intervals do not overlap."
    )
    if n < FEW_IMAGES:
        certainty += " So few images show only large differences."
    lines = [
        line
        for count in counts
        for line in _describe_count([row for row in rows if row.labels == count])
    ]
    savings = [saving for saving in find_savings(rows) if not saving.start.endswith(ANEW)]
    savings.sort(key=lambda saving: saving.needed / saving.labels)
    lines += [
        FindingLine(
            f"{saving.start} ({saving.head}) needs {'at most ' if saving.at_most else 'about '}"
            f"{round(saving.needed)} labels to be as good as {name_network(saving.other)} "
            f"with {saving.labels}."
        )
        for saving in savings[:MAX_SAVINGS]
    ]
    fewest = [row for row in rows if row.labels == counts[0]]
    return Finding(_write_headline(fewest), certainty, tuple(lines))


def _write_headline(rows: Sequence[LearningCurveRow]) -> str:
    """Return the headline of the rows with the fewest labels."""
    best, others, anew = _rank_networks(rows)
    start = f"With {count_noun(best.labels, 'label')}"
    value = f"{best.value:.0%}"
    if others:
        count = len(others) + 1
        is_clear = all(_is_clearly_lower(row, best) for row in others)
        which = f"{best.start} is clearly the best of {count} networks: it"
        first = which if is_clear else f"no network is clearly the best: {best.start}"
        values = f"is right on {value}, {others[0].start} on {others[0].value:.0%}"
        weak = anew is not None and not _is_clearly_lower(anew, best)
        word = "better" if anew and _is_clearly_lower(best, anew) else "as well"
        warning = f" Random weights do {word}, {anew.value:.0%}." if anew and weak else ""
        return f"{start}, {first} {values}.{warning}"
    if anew is None or best.start.endswith(ANEW):
        return f"{start}, {name_network(best.start)} is right on {value}."
    word = "clearly" if _is_clearly_lower(anew, best) else "not clearly"
    return (
        f"{start}, {best.start} is {word} better than the same network with random weights: "
        f"it is right on {value}, the other on {anew.value:.0%}."
    )


def _describe_count(rows: Sequence[LearningCurveRow]) -> Iterator[FindingLine]:
    """Yield the best network at one number of labels with the next one, and with random weights."""
    best, others, anew = _rank_networks(rows)
    text = f"{count_noun(best.labels, 'label')}: {_describe_row(best)}"
    if others:
        clear = all(_is_clearly_lower(row, best) for row in others)
        yield FindingLine(
            f"{text}, then {_describe_row(others[0])}.", "clear" if clear else "chance"
        )
    if anew is not None and anew is not best:
        mark: Mark = "clear" if _is_clearly_lower(anew, best) else "chance"
        mark = "warning" if _is_clearly_lower(best, anew) else mark
        yield FindingLine(f"{text}, against {_describe_row(anew)}.", mark)
    elif not others:
        yield FindingLine(f"{text}.")


def _rank_networks(
    rows: Sequence[LearningCurveRow],
) -> tuple[LearningCurveRow, list[LearningCurveRow], LearningCurveRow | None]:
    """Return the best row of the best network, of each other one, and of random weights."""
    best_rows: dict[str, LearningCurveRow] = {}
    for row in sorted(rows, key=lambda row: -row.value):
        best_rows.setdefault(row.start, row)
    networks = [row for row in best_rows.values() if not row.start.endswith(ANEW)]
    anew = next((row for row in best_rows.values() if row.start.endswith(ANEW)), None)
    first, *others = networks or list(best_rows.values())
    return first, others, anew


def _describe_row(row: LearningCurveRow) -> str:
    low, high = row.ci95
    return f"{name_network(row.start)} ({row.head}) {row.value:.1%} ({low:.0%} to {high:.0%})"


def _is_clearly_lower(row: LearningCurveRow, other: LearningCurveRow) -> bool:
    """Whether the whole interval of a row lies below that of another."""
    return row.ci95[1] < other.ci95[0]


def format_markdown(rows: Sequence[LearningCurveRow]) -> str:
    """Format balanced accuracies in % as a Markdown table over the number of labels."""
    counts = sorted({row.labels for row in rows})
    lines = [
        f"| features, head | {' | '.join(f'{count:,} labels' for count in counts)} |",
        f"|---|{'---|' * len(counts)}",
    ]
    for start, head, cells in _make_table(rows, counts):
        lines.append(f"| {name_network(start)}, {head} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _group_curves(rows: Iterable[LearningCurveRow]) -> dict[str, dict[str, list[LearningPoint]]]:
    """Group the points by head and network, in the order of their labels."""
    curves: dict[str, dict[str, list[LearningPoint]]] = {}
    for row in rows:
        if row.metric == METRIC:
            point = LearningPoint(row.labels, row.value, *row.ci95)
            curves.setdefault(row.head, {}).setdefault(row.start, []).append(point)
    for starts in curves.values():
        for points in starts.values():
            points.sort(key=lambda point: point.labels)
    return curves


def _make_table(
    rows: Sequence[LearningCurveRow], counts: Sequence[int]
) -> Iterable[tuple[str, str, list[str]]]:
    """Yield the lines of the table: network, head, and a cell per number of labels."""
    for head, starts in _group_curves(rows).items():
        for start, points in starts.items():
            by_count = {point.labels: point for point in points}
            yield start, head, [_format_cell(by_count.get(count)) for count in counts]


def _format_cell(point: LearningPoint | None) -> str:
    """Format a value with its interval, in %.

    >>> _format_cell(LearningPoint(10, 0.5, 0.4, 0.61))
    '50.0 (40 to 61)'
    """
    if point is None:
        return ""
    return f"{100 * point.value:.1f} ({100 * point.low:.0f} to {100 * point.high:.0f})"


SIDE, THUMBNAIL, EDGE = 900, 44, 3
"""Pixels of the plot's side, of an image's side, and of the frame in the colour of its class."""
OUTER_FRACTION = 0.03
"""Fraction of the images at each end of an axis that are drawn at the end itself."""


def project_on_principal_components(features: Features) -> Float[torch.Tensor, "images 2"]:
    """Project standardised features on the two directions in which they vary most (PCA).

    The largest component of each direction is positive, so that it does not depend on the machine.
    """
    centred = features.double() - features.double().mean(0)
    centred = centred / centred.std(0, unbiased=False).clamp(min=1e-6)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    first = directions[:2]
    largest = first.gather(1, first.abs().argmax(1, keepdim=True))
    return (centred @ (first * largest.sign()).T).to(features)


def draw_pca_plot(labelled: LabelledFeatures, colours: Sequence[str]) -> Image.Image:
    """Draw images at the place of their features; of images that overlap, one is drawn.

    Args:
        labelled: features, images and classes.
        colours: colours of the frames, by class; all further classes have the last one.

    Returns:
        A square picture, transparent where no image lies.

    Raises:
        ConfigError: the images are missing.
    """
    features, images, labels = labelled.features, labelled.images, labelled.labels
    if images is None:
        raise ConfigError("pca_plot: expected the images of the features")
    points = project_on_principal_components(features)
    low, high = (points.quantile(end, 0) for end in (OUTER_FRACTION, 1 - OUTER_FRACTION))
    positions = ((points - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    canvas = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    pen, room = ImageDraw.Draw(canvas), SIDE - THUMBNAIL - 2 * EDGE
    occupied: set[tuple[int, int]] = set()
    for index, (across, down) in enumerate(positions.tolist()):
        left, top = EDGE + round(across * room), EDGE + round((1 - down) * room)
        cell = left // (THUMBNAIL + 2 * EDGE), top // (THUMBNAIL + 2 * EDGE)
        if cell in occupied:
            continue
        occupied.add(cell)
        colour = colours[min(int(labels[index]), len(colours) - 1)]
        ends = (left - EDGE, top - EDGE, left + THUMBNAIL + EDGE - 1, top + THUMBNAIL + EDGE - 1)
        pen.rectangle(ends, fill=colour)
        picture = render.to_image(images[index].clamp(0, 1))
        canvas.paste(render.fit_to_side(picture, THUMBNAIL), (left, top))
    return canvas
