"""Results for people: a page, a Markdown table, a CSV file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import get_args

from markupsafe import Markup
from PIL import Image

from apercu.evaluation.cost import compare_costs, equalise_costs, format_break_even
from apercu.evaluation.ranking import (
    MAIN_METRICS,
    Group,
    RankingRow,
    build_ranking,
    count_images,
    find_baseline,
    find_direction,
    find_group,
    find_reference,
    list_metrics,
    list_trained,
    sort_needs,
)
from apercu.evaluation.report.finding import (
    describe_protocol,
    describe_reference,
    describe_thresholds,
    write_finding,
)
from apercu.evaluation.report.tables import format_duration, format_thresholds, write_tables
from apercu.evaluation.results import FIXED_THRESHOLD, ComparisonResults
from apercu.io import write_file
from apercu.methods import Requirement
from apercu.pages import (
    PICTURE_SIDE,
    Figure,
    FigureRow,
    embed_image,
    render_page,
)
from apercu.pages.charts import MAX_COLOURS, ScatterPoint, draw_lines, draw_scatter

__all__ = ["PICTURE_SIDE", "GalleryImage", "write_report", "write_tables"]

MAX_PLOTS = 4
"""Metrics that are drawn against cost, at most."""
CURVE_TITLES = {
    "deletion": "pixels made mean colour, strongest first, %",
    "insertion": "pixels put back, strongest first, %",
}
GROUPS: Mapping[Group, tuple[str, str]] = {
    "explainer": ("Explainers", "what looks at the classifier, or was trained with it"),
    "baseline": ("Baselines", "never look at the classifier: an explainer should be better"),
    "truth": ("Reference", "is given the true boxes"),
}
"""The groups of the table, and what is in them."""
REQUIREMENTS: Mapping[Requirement, str] = {
    "gradients": "derivatives through the classifier",
    "layers": "access to its layers",
    "queries": "many predictions for each image",
    "training": "once for each classifier",
    "truth": "the true boxes",
}
"""What each requirement means, in plain words."""
PHOTOGRAPH_VIEWS = {
    "evidence": "where the evidence is",
    "kept": "what the mask keeps",
    "removed": "what is left without it",
}
"""What the views of a photograph show."""


@dataclass(frozen=True)
class GalleryImage:
    """One image and its explanations, in the same order for all images.

    Attributes:
        name: the name of the image.
        caption: its class, and how probable the classifier finds it.
        picture: the image itself, with its true boxes.
        views: the drawing of each explainer by its name.
    """

    name: str
    caption: str
    picture: Image.Image
    views: Mapping[str, Image.Image]


@dataclass(frozen=True)
class CurvePlot:
    """One chart of the page, with its legend.

    Attributes:
        title: the heading of the chart.
        drawing: the chart as SVG.
        names: the explainers that have a colour, in the order of the colours.
        others: what the grey curves are; empty where there are none.
    """

    title: str
    drawing: Markup
    names: Sequence[str] = ()
    others: str = ""


def write_report(
    results: ComparisonResults,
    images: Sequence[GalleryImage],
    path: Path,
    *,
    photographs: Sequence[GalleryImage] = (),
    has_guard: bool = False,
) -> Path:
    """Write one self-contained page: what was found, pictures, tables, and how to repeat it.

    Args:
        results: the comparison.
        images: images under every explainer.
        path: the file.
        photographs: photographs that a ready-made explainer has explained, which come first.
        has_guard: whether the card of the classifier names a guard, which plays no part.

    Returns:
        The path of the file.

    Raises:
        OutputError: the file cannot be written.
    """
    metrics, table = list_metrics(results), build_ranking(results)
    page = render_page(
        (files("apercu.evaluation.report") / "report.html").read_text(encoding="utf-8"),
        finding=write_finding(results),
        results=results,
        subject=results.key,
        has_guard=has_guard,
        reference=find_reference(results),
        marks=describe_reference(results),
        columns=[
            (name, results.get_metric(name), find_direction(results, name)) for name in metrics
        ],
        groups=list(_group_rows(table)),
        baselines={row.name: find_baseline(results, row.name) for row in table},
        plots=_draw_cost_plots(results),
        curves=_draw_curves(results),
        costs=compare_costs(results),
        format_break_even=format_break_even,
        trained=list_trained(results),
        needs=sort_needs(results),
        requirements=get_args(Requirement),
        meanings=REQUIREMENTS,
        threshold_origins=dict.fromkeys(
            row.threshold_from for row in results.rows if row.threshold_from
        ),
        images=[_make_row(results, image, table) for image in images],
        photographs=[_make_photograph(image) for image in photographs],
        image_counts=count_images(results),
        thresholds=describe_thresholds(results),
        protocol=describe_protocol(results),
        chosen=any(row.threshold is not None for row in results.rows),
        fixed_threshold=FIXED_THRESHOLD,
        format_duration=format_duration,
        format_thresholds=format_thresholds,
    )
    return write_file(path, page)


def _group_rows(
    table: Sequence[RankingRow],
) -> Iterator[tuple[tuple[str, str], list[RankingRow]]]:
    """Yield the title and the rows of each group that has any."""
    for group, title in GROUPS.items():
        if rows := [row for row in table if row.group == group]:
            yield title, rows


def _draw_cost_plots(results: ComparisonResults) -> list[CurvePlot]:
    """Draw quality against time per image in the smallest batch, of all that have both."""
    smallest = min((cost.batch for cost in results.cost), default=0)
    times = {c.explainer: c.ms_per_image for c in equalise_costs(results) if c.batch == smallest}
    trained, plots = list_trained(results), []
    for metric in MAIN_METRICS:
        points = [
            ScatterPoint(
                row.explainer,
                times[row.explainer],
                row.value,
                row.explainer in trained,
                row.ci95,
            )
            for row in results.rows
            if row.metric == metric and row.explainer in times
        ]
        if len(points) > 1:
            record, better = results.get_metric(metric), find_direction(results, metric)
            arrow = "↓" if better == "lower" else "↑"
            title = f"ms per image, batch {smallest}"
            drawing = Markup(draw_scatter(points, title, f"{record.title} {arrow}"))
            plots.append(CurvePlot(f"{record.title}: {better} is better", drawing))
    return plots[:MAX_PLOTS]


def _draw_curves(results: ComparisonResults) -> list[CurvePlot]:
    """Draw deletion and insertion: trained explainers in colour, and the best of the others.

    Baselines and the true boxes get no colour.
    """
    curves = results.curves
    trained = [name for name in list_trained(results) if name in curves]
    uncoloured = {name for name in curves if find_group(results, name) != "explainer"}

    def compute_gain(name: str) -> float:
        areas = {kind: sum(curve) / len(curve) for kind, curve in curves[name].items()}
        return areas.get("insertion", 0.0) - areas.get("deletion", 0.0)

    others = sorted(curves.keys() - set(trained) - uncoloured, key=compute_gain, reverse=True)
    coloured = [*trained, *others][:MAX_COLOURS]
    plots = []
    for kind, title in CURVE_TITLES.items():
        order = [*coloured, *sorted(curves.keys() - set(coloured))]
        of_kind = {name: curves[name][kind] for name in order if kind in curves[name]}
        if of_kind:
            drawing = Markup(draw_lines(of_kind, coloured, trained, title))
            direction = "the lower the better" if kind == "deletion" else "the higher the better"
            grey = "others" if of_kind.keys() - set(coloured) else ""
            plots.append(CurvePlot(f"{kind.capitalize()}: {direction}", drawing, coloured, grey))
    return plots


def _make_row(
    results: ComparisonResults, image: GalleryImage, table: Sequence[RankingRow]
) -> FigureRow:
    """Return the pictures of an image: explainers in the order of the table, baselines folded."""
    order = [row.name for row in table if row.name in image.views]
    order += [name for name in image.views if name not in order]
    original = Figure(
        "the image", embed_image(image.picture), f"image {image.name}: {image.caption}"
    )
    views = {
        name: Figure(name, embed_image(image.views[name]), f"{name}: {image.caption}")
        for name in order
    }
    baselines = [name for name in order if find_group(results, name) != "explainer"]
    return FigureRow(
        image.caption,
        image.name,
        [original, *(figure for name, figure in views.items() if name not in baselines)],
        [views[name] for name in baselines],
        "Baselines on this image, which never look at the classifier",
    )


def _make_photograph(image: GalleryImage) -> FigureRow:
    """Return the pictures of a photograph that a ready-made explainer has explained."""
    figures = [Figure("the photograph", embed_image(image.picture), f"photograph {image.name}")]
    for name, view in image.views.items():
        title = PHOTOGRAPH_VIEWS.get(name, name)
        figures.append(Figure(title, embed_image(view), f"{title}, for {image.caption}"))
    return FigureRow(image.caption, image.name, figures)
