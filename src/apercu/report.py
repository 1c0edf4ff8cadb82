"""Results and pictures as one HTML file that opens offline, on a phone too."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from apercu import render
from apercu.compare import Results
from apercu.compare.table import COLUMNS, better, headline, ranking, time_text
from apercu.output import write


@dataclass(frozen=True)
class Shot:
    """One image under every explainer, in the same order for all images."""

    name: str
    caption: str
    picture: Image.Image
    views: Mapping[str, Image.Image]


SIDE = 240


def write_report(results: Results, shots: Sequence[Shot], path: Path, command: str) -> Path:
    """Write one self-contained page: headline, ranking, costs, gallery, how to make it again.

    `command` is what a reader types to get these results. Raises `OutputError`.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("apercu") / "templates/report.html").read_text())
    metrics = [name for name in COLUMNS if any(row.metric == name for row in results.rows)]
    page = template.render(
        results=results,
        subject=results.subject,
        headline=headline(results),
        columns=[(name, COLUMNS[name], better(results, name)) for name in metrics],
        table=ranking(results),
        heat=", ".join(render.HEAT),
        shots=[_embedded(shot) for shot in shots],
        views=max((len(shot.views) for shot in shots), default=0),
        command=command,
        time_text=time_text,
    )
    return write(path, page)


def _embedded(shot: Shot) -> dict[str, Any]:
    pictures = {"image": shot.picture, **shot.views}
    return {
        "name": shot.name,
        "caption": shot.caption,
        "pictures": {name: _data(image) for name, image in pictures.items()},
    }


def _data(image: Image.Image) -> str:
    """A picture inside the page."""
    jpeg = render.encode(render.fit(image, SIDE), "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
