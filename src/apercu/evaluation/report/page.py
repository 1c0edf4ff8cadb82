"""Results and pictures as one HTML file that opens offline, on a phone too."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from apercu import render
from apercu.evaluation.cost import compare_costs, equalise_costs, format_break_even
from apercu.evaluation.ranking import (
    MAIN_METRICS,
    build_ranking,
    count_images,
    describe_reference,
    find_direction,
    find_reference,
    has_thresholds,
    is_true_box,
    list_metrics,
    list_trained,
    name_winners,
    sort_needs,
    write_headline,
)
from apercu.evaluation.report.charts import MAX_COLOURS, ScatterPoint, draw_lines, draw_scatter
from apercu.evaluation.report.tables import format_duration
from apercu.evaluation.results import ComparisonResults
from apercu.io import write_file
from apercu.methods import Requirement

PICTURE_SIDE = 240
"""Longest side of a picture of the gallery, in pixels."""
MAX_PLOTS = 4
"""Metrics that are drawn against cost, at most."""
CURVE_TITLES = {
    "deletion": "pixels made mean colour, highest first, %",
    "insertion": "pixels put back, highest first, %",
}


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
    """One chart of mean curves.

    Attributes:
        title: the heading of the chart.
        names: the explainers that have a colour, in the order of the colours.
        drawing: the chart as SVG.
    """

    title: str
    names: Sequence[str]
    drawing: Markup


def write_report(
    results: ComparisonResults,
    images: Sequence[GalleryImage],
    path: Path,
    *,
    photographs: Sequence[GalleryImage] = (),
) -> Path:
    """Write one self-contained page: headline, ranking, costs, gallery, and how to repeat it.

    Args:
        results: the comparison.
        images: images under every explainer.
        path: the file.
        photographs: photographs that a ready-made explainer has explained, which come first.

    Returns:
        The path of the file.

    Raises:
        OutputError: the file cannot be written.
    """
    views = max((len(image.views) for image in images), default=0)
    metrics = list_metrics(results)
    page = render_template(
        (files("apercu.evaluation.report") / "report.html").read_text(),
        style=render_style(views),
        results=results,
        subject=results.key,
        headline=write_headline(results),
        also=name_winners(results, [name for name in metrics if name not in MAIN_METRICS]),
        reference=find_reference(results),
        marks=describe_reference(results),
        columns=[
            (name, results.get_metric(name), find_direction(results, name)) for name in metrics
        ],
        table=build_ranking(results),
        plots=_draw_cost_plots(results),
        curves=_draw_curves(results),
        costs=compare_costs(results),
        needs=sort_needs(results),
        requirements=get_args(Requirement),
        images=[_embed_pictures(image) for image in images],
        photographs=[_embed_pictures(image) for image in photographs],
        format_duration=format_duration,
        image_counts=count_images(results),
        halves=has_thresholds(results),
        format_break_even=format_break_even,
        allow_line_breaks=_allow_line_breaks,
    )
    return write_file(path, page)


def render_template(template: str, **values: Any) -> str:
    """Fill in a template; every value is escaped but `Markup`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(**values)


def render_style(views: int) -> Markup:
    """Return the style sheet of all pages; a wide screen shows `views` pictures in a row."""
    sheet = (files("apercu.evaluation.report") / "style.css").read_text()
    return Markup(
        render_template(
            sheet, heat=", ".join(render.HEAT_COLOURS), series=render.SERIES_COLOURS, views=views
        )
    )


def embed_image(image: Image.Image, side: int = PICTURE_SIDE) -> str:
    """Return a `data:` address that holds a picture, its longer side at most `side` pixels."""
    jpeg = render.encode_image(render.fit_to_side(image, side), "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _draw_cost_plots(results: ComparisonResults) -> list[Markup]:
    """Draw quality against time per image in the smallest batch, of all that have both."""
    smallest = min((cost.batch for cost in results.cost), default=0)
    times = {c.explainer: c.ms_per_image for c in equalise_costs(results) if c.batch == smallest}
    trained, plots = list_trained(results), []
    for metric in MAIN_METRICS:
        points = [
            ScatterPoint(row.explainer, times[row.explainer], row.value, row.explainer in trained)
            for row in results.rows
            if row.metric == metric and row.explainer in times
        ]
        if len(points) > 1:
            arrow = "↓" if find_direction(results, metric) == "lower" else "↑"
            title = f"{results.get_metric(metric).title} {arrow}"
            plots.append(Markup(draw_scatter(points, f"ms per image, batch {smallest}", title)))
    return plots[:MAX_PLOTS]


def _draw_curves(results: ComparisonResults) -> list[CurvePlot]:
    """Draw deletion and insertion: trained explainers in colour, and the best of the others.

    The true boxes get no colour.
    """
    curves = results.curves
    trained = [name for name in list_trained(results) if name in curves]
    true_boxes = {name for name in curves if is_true_box(results, name)}

    def compute_gain(name: str) -> float:
        areas = {kind: sum(curve) / len(curve) for kind, curve in curves[name].items()}
        return areas.get("insertion", 0.0) - areas.get("deletion", 0.0)

    others = sorted(curves.keys() - set(trained) - true_boxes, key=compute_gain, reverse=True)
    coloured = [*trained, *others][:MAX_COLOURS]
    plots = []
    for kind, title in CURVE_TITLES.items():
        order = [*coloured, *sorted(curves.keys() - set(coloured))]
        of_kind = {name: curves[name][kind] for name in order if kind in curves[name]}
        if of_kind:
            drawing = Markup(draw_lines(of_kind, coloured, trained, title))
            plots.append(CurvePlot(kind.capitalize(), coloured, drawing))
    return plots


def _allow_line_breaks(name: str) -> Markup:
    """Return a name that may be broken after an underscore, a colon or a comma."""
    return Markup(re.sub("([_:,=])", r"\1<wbr>", str(escape(name))))


def _embed_pictures(image: GalleryImage) -> dict[str, Any]:
    pictures = {"image": image.picture, **image.views}
    return {
        "name": image.name,
        "caption": image.caption,
        "pictures": {name: embed_image(picture) for name, picture in pictures.items()},
    }
