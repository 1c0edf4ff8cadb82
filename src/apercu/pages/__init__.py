"""HTML pages that open offline: one template, one style sheet and the macros of all reports.

`base.html` holds the order of every report: what was found, pictures, tables, and at the end,
folded, how it was measured. A report fills in the blocks and calls the macros of `macros.html`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import Any, Literal, TypeAlias

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from apercu import render

PICTURE_SIDE = 240
"""Longest side of a picture of a report, in pixels."""
FEW_IMAGES = 30
"""Fewer images than these show only large differences."""
FILE_ENDINGS = frozenset(
    {".json", ".pt2", ".pt", ".pth", ".onnx", ".parquet", ".npz", ".npy", ".csv", ".fits", ".zip"}
)
"""Endings of files that are no part of a name."""
SOURCES = ("timm/", "torchvision/", "hf/")
"""Beginnings of names that look like paths."""

Mark: TypeAlias = Literal["clear", "chance", "plain", "warning"]
"""How sure a sentence is: beyond chance, perhaps chance, without a test, or a warning."""
MARK_WORDS: dict[Mark, str] = {
    "clear": "clear",
    "chance": "may be chance",
    "plain": "",
    "warning": "take care",
}


@dataclass(frozen=True)
class FindingLine:
    """One sentence of what was found, and how sure it is."""

    text: str
    mark: Mark = "plain"

    @property
    def word(self) -> str:
        """The mark as people read it."""
        return MARK_WORDS[self.mark]


@dataclass(frozen=True)
class Finding:
    """What a report opens with.

    Attributes:
        headline: one sentence that says what was found.
        certainty: one or two sentences that say how sure it is.
        lines: the numbers behind it, one sentence each.
    """

    headline: str
    certainty: str
    lines: tuple[FindingLine, ...] = ()

    def __str__(self) -> str:
        """Return the headline and how sure it is, as plain text."""
        return f"{self.headline} {self.certainty}".strip()


@dataclass(frozen=True)
class Figure:
    """One picture of a report, with its words as text.

    Attributes:
        title: the words below the picture.
        source: the address that holds the picture, see `embed_image`.
        alt: what the picture shows, for people who do not see it.
        note: a second line of words.
    """

    title: str
    source: str
    alt: str
    note: str = ""


@dataclass(frozen=True)
class FigureRow:
    """Pictures of one image, side by side.

    Attributes:
        title: what the row is about.
        note: the name of the file, or the like.
        figures: the pictures that are seen at once.
        more: pictures that are folded.
        more_title: what is folded.
    """

    title: str
    note: str
    figures: Sequence[Figure]
    more: Sequence[Figure] = ()
    more_title: str = ""


def render_page(template: str, **values: Any) -> str:
    """Fill in a page that extends `base.html`; every value is escaped but `Markup`.

    Args:
        template: the template of the page.
        values: what its names stand for.

    Returns:
        The page as HTML.
    """
    environment = _make_environment()
    environment.filters["breakable"] = allow_line_breaks
    environment.globals["style"] = _render_style()
    return environment.from_string(template).render(**values)


def render_output(
    lines: Sequence[str] = (),
    rows: Sequence[Sequence[Figure]] = (),
    *,
    header: Sequence[str] = (),
    cells: Sequence[Sequence[str]] = (),
    notes: Sequence[str] = (),
    width: int = 224,
) -> str:
    """Render what a notebook shows of an object: sentences, pictures, and a table.

    Colours are those of the notebook, light or dark, and no style sheet is needed.

    Args:
        lines: the sentences above; the first one is a heading.
        rows: pictures side by side; those of further rows are half as wide.
        header: the heads of the columns of a table.
        cells: the texts of its rows; the first of each names the row.
        notes: small sentences below.
        width: the width of a picture in pixels.

    Returns:
        A part of a page, as HTML.
    """
    values = {"lines": lines, "rows": rows, "header": header, "cells": cells}
    template = _make_environment().from_string(_read_part("notebook.html"))
    return template.render(**values, notes=notes, width=width)


def embed_image(image: Image.Image, side: int = PICTURE_SIDE) -> str:
    """Return a `data:` address that holds a picture, its longer side at most `side` pixels.

    A picture with transparent pixels keeps them.
    """
    if image.mode == "RGBA":
        encoded, kind = render.encode_image(image, "WEBP"), "webp"
    else:
        encoded, kind = render.encode_image(render.fit_to_side(image, side), "JPEG"), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"


def allow_line_breaks(name: str) -> Markup:
    """Return a name that may be broken after an underscore, a colon or a comma."""
    return Markup(re.sub(r"([_:,=]|/(?!\d))", r"\1<wbr>", str(escape(name))))


def name_subject(spec: str) -> str:
    """Return a short name of a classifier or of images, instead of the path that was typed.

    >>> [name_subject(spec) for spec in ("birds/card.json", "models/net.onnx", "timm/vit.a")]
    ['birds', 'net', 'timm/vit.a']
    >>> [name_subject(spec) for spec in ("/data/photos/val/", "planted:images=9", "val.parquet")]
    ['val', 'planted images', 'val']
    """
    if spec.partition(":")[0] == "planted":
        return "planted images"
    if spec.startswith(SOURCES):
        return spec
    path = PurePath(spec)
    if path.suffix in FILE_ENDINGS:
        return path.parent.name if path.name == "card.json" and path.parent.name else path.stem
    return path.name or spec


def join_words(words: Sequence[str], last: str = "and") -> str:
    """Return words as a list of a sentence.

    >>> join_words(["a"]), join_words(["a", "b", "c"], "or")
    ('a', 'a, b or c')
    """
    *first, final = words
    return f"{', '.join(first)} {last} {final}" if first else final


def count_noun(count: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count_noun(1, "image"), count_noun(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _make_environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_read_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _read_part(name: str) -> str:
    return (files("apercu.pages") / name).read_text(encoding="utf-8")


def _render_style() -> Markup:
    """Return the style sheet of all pages, with the colours of maps and curves."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    sheet = environment.from_string(_read_part("style.css"))
    heat = ", ".join(render.HEAT_COLOURS)
    return Markup(sheet.render(heat=heat, series=render.SERIES_COLOURS))
