"""The report of an evaluation of features: one HTML file that opens offline, and a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
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
from apercu.pretraining.few_labels import (
    METRIC,
    LearningCurveRow,
    find_savings,
    group_curves,
)
from apercu.pretraining.heads.base import Features, LabelledFeatures

REPORT, TABLE = "report.html", "table.md"
RANDOM_WEIGHTS = ", anew"
"""End of the name of a network whose weights were drawn at random; result files hold it."""
MAX_SAVINGS = 3
"""Comparisons of labels that the finding names, at most."""


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
    counts = sorted({row.labels for row in rows})
    page = render_page(
        (files("apercu.pretraining") / "features.html").read_text(encoding="utf-8"),
        finding=write_finding(rows, content),
        about=content,
        charts=_draw_charts(rows),
        counts=counts,
        groups=_group_lines(list(_make_table(rows, counts))),
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


def _draw_charts(rows: Sequence[LearningCurveRow]) -> list[dict[str, Any]]:
    """Draw one chart per head, with the learning curve of every network."""
    coloured = list(dict.fromkeys(name_network(row.start) for row in rows))[:MAX_COLOURS]
    charts = []
    for head, starts in group_curves(rows).items():
        curves = {name_network(start): points for start, points in starts.items()}
        drawing = Markup(draw_learning_curves(curves, coloured, "balanced accuracy"))
        charts.append({"title": head, "drawing": drawing, "names": coloured, "others": ""})
    return charts


def _group_lines(lines: Sequence[TableLine]) -> list[tuple[str, str, list[TableLine]]]:
    """Return title, note and lines of the networks, and of those with random weights."""
    learnt = [line for line in lines if not has_random_weights(line.start)]
    random = [line for line in lines if has_random_weights(line.start)]
    groups = [
        ("Networks", "", learnt),
        ("Random weights", "the same network that has learnt nothing before", random),
    ]
    return [group for group in groups if group[2]]


def has_random_weights(start: str) -> bool:
    """Whether a network is named as one whose weights were drawn at random."""
    return start.endswith(RANDOM_WEIGHTS)


def name_network(start: str) -> str:
    """Return the name of a network as people read it.

    >>> name_network("small"), name_network("small, anew")
    ('small', 'small with random weights')
    """
    if not has_random_weights(start):
        return start
    return f"{start.removesuffix(RANDOM_WEIGHTS)} with random weights"


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
    savings = [saving for saving in find_savings(rows) if not has_random_weights(saving.start)]
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
    best, others, random = _rank_networks(rows)
    start = f"With {count_noun(best.labels, 'label')}"
    value = f"{best.value:.0%}"
    if not others and (random is None or has_random_weights(best.start)):
        return f"{start}, {name_network(best.start)} is right on {value}."
    if not others and random is not None:
        word = "clearly" if _is_clearly_lower(random, best) else "not clearly"
        return (
            f"{start}, {best.start} is {word} better than the same network with random weights: "
            f"it is right on {value}, the other on {random.value:.0%}."
        )
    first = f"no network is clearly the best: {best.start}"
    if _is_clearly_best(best, others):
        first = f"{best.start} is clearly the best of {len(others) + 1} networks: it"
    values = f"is right on {value}, {others[0].start} on {others[0].value:.0%}"
    warning = ""
    if random is not None and not _is_clearly_lower(random, best):
        word = "better" if _is_clearly_lower(best, random) else "as well"
        warning = f" Random weights do {word}, {random.value:.0%}."
    return f"{start}, {first} {values}.{warning}"


def _describe_count(rows: Sequence[LearningCurveRow]) -> Iterator[FindingLine]:
    """Yield the best network at one number of labels with the next one, and with random weights."""
    best, others, random = _rank_networks(rows)
    text = f"{count_noun(best.labels, 'label')}: {_describe_row(best)}"
    if others:
        mark: Mark = "clear" if _is_clearly_best(best, others) else "chance"
        yield FindingLine(f"{text}, then {_describe_row(others[0])}.", mark)
    if random is not None and random is not best:
        yield FindingLine(f"{text}, against {_describe_row(random)}.", _compare_rows(best, random))
    elif not others:
        yield FindingLine(f"{text}.")


def _compare_rows(best: LearningCurveRow, random: LearningCurveRow) -> Mark:
    """Return how sure it is that a network is better than random weights."""
    if _is_clearly_lower(best, random):
        return "warning"
    return "clear" if _is_clearly_lower(random, best) else "chance"


class _Ranking(NamedTuple):
    """The best row of the best network, of each other one, and of random weights."""

    best: LearningCurveRow
    others: list[LearningCurveRow]
    random: LearningCurveRow | None


def _rank_networks(rows: Sequence[LearningCurveRow]) -> _Ranking:
    """Rank networks by their best rows; random weights are best only where they are alone."""
    best_rows: dict[str, LearningCurveRow] = {}
    for row in sorted(rows, key=lambda row: -row.value):
        best_rows.setdefault(row.start, row)
    networks = [row for row in best_rows.values() if not has_random_weights(row.start)]
    random = next((row for row in best_rows.values() if has_random_weights(row.start)), None)
    best, *others = networks or list(best_rows.values())
    return _Ranking(best, others, random)


def _is_clearly_best(best: LearningCurveRow, others: Sequence[LearningCurveRow]) -> bool:
    """Whether the interval of a row lies above those of all others."""
    return all(_is_clearly_lower(row, best) for row in others)


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


class TableLine(NamedTuple):
    """A line of the table: network, head, and a cell per number of labels."""

    start: str
    head: str
    cells: list[str]


def _make_table(rows: Sequence[LearningCurveRow], counts: Sequence[int]) -> Iterator[TableLine]:
    """Yield the lines of the table, by head and network."""
    for head, starts in group_curves(rows).items():
        for start, points in starts.items():
            by_count = {point.labels: point for point in points}
            cells = [_format_cell(by_count.get(count)) for count in counts]
            yield TableLine(start, head, cells)


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
