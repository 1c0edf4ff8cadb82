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
from apercu.evaluation import Results
from apercu.evaluation.formatting import COLUMNS
from apercu.evaluation.measures import cuts
from apercu.evaluation.ranking import (
    MAIN,
    best_trained,
    better,
    break_even_text,
    costs,
    evened,
    firsts,
    headline,
    measured,
    needs,
    ranking,
    reported,
    trained,
)
from apercu.evaluation.report.charts import COLOURED, Point, lines, scatter
from apercu.evaluation.report.tables import duration
from apercu.io import write
from apercu.methods import Need, TrueBox


@dataclass(frozen=True)
class Shot:
    """One image under every explainer, in the same order for all images."""

    name: str
    caption: str
    picture: Image.Image
    views: Mapping[str, Image.Image]


SIDE = 240
"""Longest side of a picture of the gallery."""
PLOTS = 4
"""Metrics that are drawn against cost, at most."""
CURVES = {
    "deletion": "pixels made mean colour, highest first, %",
    "insertion": "pixels put back, highest first, %",
}


def write_report(results: Results, shots: Sequence[Shot], path: Path) -> Path:
    """Write one self-contained page: headline, ranking, costs, gallery, how to make it again.

    Raises `OutputError`.
    """
    views = max((len(shot.views) for shot in shots), default=0)
    page = rendered(
        (files("apercu.evaluation.report") / "report.html").read_text(),
        style=style(views),
        results=results,
        subject=results.subject,
        headline=headline(results),
        also=firsts(results, [metric for metric in measured(results) if metric not in MAIN]),
        reference=best_trained(results),
        columns=[(name, COLUMNS[name], better(results, name)) for name in measured(results)],
        table=ranking(results),
        plots=_plots(results),
        curves=_curves(results),
        costs=costs(results),
        needs=needs(results),
        kinds=get_args(Need),
        shots=[_embedded(shot) for shot in shots],
        views=views,
        duration=duration,
        reported=reported(results),
        halves=cuts(measured(results)),
        break_even_text=break_even_text,
        broken=_broken,
    )
    return write(path, page)


def rendered(template: str, **values: Any) -> str:
    """A page from a template, every value escaped but `Markup`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(**values)


def style(views: int) -> Markup:
    """The style sheet of all our pages; `views` pictures stand in a row on a wide screen."""
    sheet = (files("apercu.evaluation.report") / "style.css").read_text()
    return Markup(rendered(sheet, heat=", ".join(render.HEAT), series=render.SERIES, views=views))


def _plots(results: Results) -> list[Markup]:
    """Quality against time per image in the smallest batch, of what has both."""
    smallest = min((cost.batch for cost in results.cost), default=0)
    times = {c.explainer: c.ms_per_image for c in evened(results) if c.batch == smallest}
    drawn = []
    for metric in MAIN:
        points = [
            Point(row.explainer, times[row.explainer], row.value, row.explainer in trained(results))
            for row in results.rows
            if row.metric == metric and row.explainer in times
        ]
        if len(points) > 1:
            arrow = "↓" if better(results, metric) == "lower" else "↑"
            title = f"{COLUMNS[metric].title} {arrow}"
            drawn.append(Markup(scatter(points, f"ms per image, batch {smallest}", title)))
    return drawn[:PLOTS]


def _curves(results: Results) -> list[dict[str, Any]]:
    """Deletion and insertion: trained explainers in colour, and the best rivals of both together.

    What was told the truth is no rival.
    """
    curves = results.curves
    ours = [name for name in trained(results) if name in curves]
    told = {n for n in curves if results.explainers.get(n) == TrueBox().identity}

    def gained(name: str) -> float:
        found = {kind: sum(curve) / len(curve) for kind, curve in curves[name].items()}
        return found.get("insertion", 0.0) - found.get("deletion", 0.0)

    others = sorted(curves.keys() - set(ours) - told, key=gained, reverse=True)
    coloured = [*ours, *others][:COLOURED]
    drawn = []
    for kind, title in CURVES.items():
        order = [*coloured, *sorted(curves.keys() - set(coloured))]
        found = {name: curves[name][kind] for name in order if kind in curves[name]}
        if found:
            drawing = Markup(lines(found, coloured, ours, title))
            drawn.append({"title": kind.capitalize(), "names": coloured, "drawing": drawing})
    return drawn


def _broken(name: str) -> Markup:
    """A name that may go on in the next line after an underscore, a colon or a comma."""
    return Markup(re.sub("([_:,=])", r"\1<wbr>", str(escape(name))))


def _embedded(shot: Shot) -> dict[str, Any]:
    pictures = {"image": shot.picture, **shot.views}
    return {
        "name": shot.name,
        "caption": shot.caption,
        "pictures": {name: data(image) for name, image in pictures.items()},
    }


def data(image: Image.Image, side: int = SIDE) -> str:
    """A picture as an address that holds it, its longer side at most `side` pixels."""
    jpeg = render.encode(render.fit(image, side), "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
