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
from apercu.evaluation import ComparisonResults
from apercu.evaluation.formatting import COLUMNS
from apercu.evaluation.measures import cuts
from apercu.evaluation.ranking import (
    MAIN_METRICS,
    best_trained,
    build_ranking,
    compare_costs,
    count_images,
    equalise_costs,
    find_direction,
    format_break_even,
    list_metrics,
    list_trained,
    name_winners,
    sort_needs,
    write_headline,
)
from apercu.evaluation.report.charts import MAX_COLOURS, ScatterPoint, draw_lines, draw_scatter
from apercu.evaluation.report.tables import format_duration
from apercu.io import write_file
from apercu.methods import Requirement, TrueBox


@dataclass(frozen=True)
class GalleryImage:
    """One image under every explainer, in the same order for all images."""

    name: str
    caption: str
    picture: Image.Image
    views: Mapping[str, Image.Image]


PICTURE_SIDE = 240
"""Longest side of a picture of the gallery."""
MAX_PLOTS = 4
"""Metrics that are drawn against cost, at most."""
CURVE_TITLES = {
    "deletion": "pixels made mean colour, highest first, %",
    "insertion": "pixels put back, highest first, %",
}


def write_report(results: ComparisonResults, images: Sequence[GalleryImage], path: Path) -> Path:
    """Write one self-contained page: headline, ranking, costs, gallery, how to make it again.

    Raises `OutputError`.
    """
    views = max((len(shot.views) for shot in images), default=0)
    page = render_template(
        (files("apercu.evaluation.report") / "report.html").read_text(),
        style=render_style(views),
        results=results,
        subject=results.key,
        headline=write_headline(results),
        also=name_winners(
            results, [metric for metric in list_metrics(results) if metric not in MAIN_METRICS]
        ),
        reference=best_trained(results),
        columns=[
            (name, COLUMNS[name], find_direction(results, name)) for name in list_metrics(results)
        ],
        table=build_ranking(results),
        plots=_draw_cost_plots(results),
        curves=_draw_curves(results),
        costs=compare_costs(results),
        needs=sort_needs(results),
        kinds=get_args(Requirement),
        shots=[_embed_pictures(shot) for shot in images],
        views=views,
        duration=format_duration,
        reported=count_images(results),
        halves=cuts(list_metrics(results)),
        break_even_text=format_break_even,
        broken=_allow_line_breaks,
    )
    return write_file(path, page)


def render_template(template: str, **values: Any) -> str:
    """A page from a template, every value escaped but `Markup`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(**values)


def render_style(views: int) -> Markup:
    """The style sheet of all our pages; `views` pictures stand in a row on a wide screen."""
    sheet = (files("apercu.evaluation.report") / "style.css").read_text()
    return Markup(
        render_template(
            sheet, heat=", ".join(render.HEAT_COLOURS), series=render.SERIES_COLOURS, views=views
        )
    )


def _draw_cost_plots(results: ComparisonResults) -> list[Markup]:
    """Quality against time per image in the smallest batch, of what has both."""
    smallest = min((cost.batch for cost in results.cost), default=0)
    times = {c.explainer: c.ms_per_image for c in equalise_costs(results) if c.batch == smallest}
    drawn = []
    for metric in MAIN_METRICS:
        points = [
            ScatterPoint(
                row.explainer,
                times[row.explainer],
                row.value,
                row.explainer in list_trained(results),
            )
            for row in results.rows
            if row.metric == metric and row.explainer in times
        ]
        if len(points) > 1:
            arrow = "↓" if find_direction(results, metric) == "lower" else "↑"
            title = f"{COLUMNS[metric].title} {arrow}"
            drawn.append(Markup(draw_scatter(points, f"ms per image, batch {smallest}", title)))
    return drawn[:MAX_PLOTS]


def _draw_curves(results: ComparisonResults) -> list[dict[str, Any]]:
    """Deletion and insertion: trained explainers in colour, and the best rivals of both together.

    What was told the truth is no rival.
    """
    curves = results.curves
    ours = [name for name in list_trained(results) if name in curves]
    told = {n for n in curves if results.explainers.get(n) == TrueBox().cache_key}

    def gained(name: str) -> float:
        found = {kind: sum(curve) / len(curve) for kind, curve in curves[name].items()}
        return found.get("insertion", 0.0) - found.get("deletion", 0.0)

    others = sorted(curves.keys() - set(ours) - told, key=gained, reverse=True)
    coloured = [*ours, *others][:MAX_COLOURS]
    drawn = []
    for kind, title in CURVE_TITLES.items():
        order = [*coloured, *sorted(curves.keys() - set(coloured))]
        found = {name: curves[name][kind] for name in order if kind in curves[name]}
        if found:
            drawing = Markup(draw_lines(found, coloured, ours, title))
            drawn.append({"title": kind.capitalize(), "names": coloured, "drawing": drawing})
    return drawn


def _allow_line_breaks(name: str) -> Markup:
    """A name that may go on in the next line after an underscore, a colon or a comma."""
    return Markup(re.sub("([_:,=])", r"\1<wbr>", str(escape(name))))


def _embed_pictures(image: GalleryImage) -> dict[str, Any]:
    pictures = {"image": image.picture, **image.views}
    return {
        "name": image.name,
        "caption": image.caption,
        "pictures": {name: embed_image(image) for name, image in pictures.items()},
    }


def embed_image(image: Image.Image, side: int = PICTURE_SIDE) -> str:
    """A picture as an address that holds it, its longer side at most `side` pixels."""
    jpeg = render.encode_image(render.fit_to_side(image, side), "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
