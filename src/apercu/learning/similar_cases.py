"""The cases that are nearest to an image, as an object that shows itself in text and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, final

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from apercu import render
from apercu.explain.explanation import NamedClass, StoredImage, format_percent, shrink_picture
from apercu.io import write_file, write_json
from apercu.learning.case_index import CaseIndex, format_distance
from apercu.pages import (
    PICTURE_SIDE,
    Figure,
    FigureRow,
    Finding,
    FindingLine,
    count_noun,
    embed_image,
    name_subject,
    render_output,
    render_page,
)

RECORD, REPORT = "similar.json", "report.html"
WHOLE, REGION = "whole image", "explained region"
"""The two ways to compare."""
CHANCE = 0.05
"""Probability below which a count of labels is more than chance."""
DIGITS = 6


@dataclass(frozen=True)
class SimilarCase:
    """One of the cases that are near an image.

    Attributes:
        row: its row in the index.
        name: its name in the source of the images.
        label: its label, as the classifier names the class; several with `|` between them; None
            where it has none.
        predicted: the class that the classifier predicts; None for a network without classes.
        probability: the probability of that class.
        distance: 1 less the cosine of the features, from 0 to 2.
    """

    row: int
    name: str
    label: str | None
    predicted: str | None
    probability: float | None
    distance: float

    @property
    def title(self) -> str:
        """The label, or else what is predicted."""
        return self.label or (f"predicted {self.predicted}" if self.predicted else self.name)


@final
@dataclass(frozen=True, eq=False, repr=False)
class SimilarCases:
    """The nearest cases of one image; in a notebook their pictures.

    Attributes:
        stored: the image.
        target: the class that is explained; None for a network without classes.
        predicted: the class that is predicted; None for a network without classes.
        probability: the probability of the predicted class.
        map: the evidence for the class, in [0, 1]; None where no region is compared.
        by_features: the nearest cases by the whole image, the nearest first.
        by_region: the nearest by the explained region; empty where nothing speaks for the class,
            None where no region is compared.
        index: all cases.
        labels: labels of all cases.
        record: what `similar.json` says of classifier and images.
        own: row of the image itself among the cases, which is not compared; None if it is none.
    """

    stored: StoredImage
    target: NamedClass | None
    predicted: NamedClass | None
    probability: float | None
    map: Float[Tensor, "height width"] | None
    by_features: tuple[SimilarCase, ...]
    by_region: tuple[SimilarCase, ...] | None
    index: CaseIndex
    labels: tuple[str | None, ...]
    record: dict[str, Any]
    own: int | None = None

    @property
    def finding(self) -> Finding:
        """What the nearest cases say, how sure it is, and the numbers behind it."""
        lines = [
            line
            for words, cases in self._list_groups()
            if (line := self._count_labels(words, cases)) is not None
        ]
        first = lines[-1] if lines else None
        headline = f"{self._name_image()}: {self._describe_nearest()}"
        if first is not None:
            headline = f"{self._name_image()}: {first.text}"
        if self.predicted is not None and self._is_label_missing():
            text = f"No case is labelled {self.predicted.short_name}, the predicted class."
            lines.append(FindingLine(text, "warning"))
        if self.by_region == ():
            lines.append(FindingLine("Nothing in the image speaks for the class.", "warning"))
        others = len(self.index) - (self.own is not None)
        certainty = (
            f"Nearest among {count_noun(others, 'image')} of "
            f"{name_subject(self.index.source.name)}, by the angle of the classifier's deepest "
            "features. Near in these features is near to this classifier, not to an expert."
        )
        return Finding(headline, certainty, tuple(lines))

    @property
    def lines(self) -> list[str]:
        """The image and its nearest cases, one line each, for a terminal."""
        lines = [self._name_image() + self._describe_prediction()]
        for words, cases in self._list_groups():
            lines.append(f"nearest by the {words}:" if cases else f"by the {words}: no evidence")
            for case in cases:
                mark = "" if case.label is None else f"  {case.label}"
                said = "" if case.predicted is None else f"  (predicted {case.predicted})"
                lines.append(f"  {format_distance(case.distance):7}{mark}{said}  {case.name}")
        return lines

    def describe(self) -> dict[str, Any]:
        """Return what `similar.json` says."""
        return self.record | {
            "image": {"name": self.stored.name, "source": self.stored.source},
            "predicted": None if self.predicted is None else self.predicted.name,
            "probability": _round_figure(self.probability),
            "explained": None if self.target is None else self.target.name,
            "finding": str(self.finding),
            "by_features": _describe_cases(self.by_features),
            "by_region": None if self.by_region is None else _describe_cases(self.by_region),
        }

    def save(self, out: str | Path) -> Path:
        """Write `similar.json`, and a report with pictures.

        Args:
            out: the folder that is written.

        Returns:
            The path of the report.

        Raises:
            OutputError: the folder cannot be written.
        """
        folder = Path(out)
        write_json(folder / RECORD, self.describe())
        page = render_page(
            (files("apercu.learning") / "similar.html").read_text(encoding="utf-8"),
            finding=self.finding,
            rows=self.make_rows(PICTURE_SIDE),
            about=self.record,
        )
        return write_file(folder / REPORT, page)

    def make_rows(self, side: int) -> list[FigureRow]:
        """Make a row of pictures for the image, and one for each way to compare.

        Args:
            side: longest side of a picture in pixels.

        Returns:
            The rows, the image first.
        """
        picture = shrink_picture(self.stored.picture, side)
        own = [Figure("the image", embed_image(render.to_image(picture), side), self.stored.name)]
        if self.map is not None and self.target is not None:
            drawn = render.draw_overlay(picture, self.map)
            words = f"evidence for {self.target.short_name}"
            own.append(Figure(words, embed_image(drawn, side), f"{words} in {self.stored.name}"))
        rows = [FigureRow(self._name_image(), self._describe_prediction().lstrip(": "), own)]
        for words, cases in self._list_groups():
            note = "" if cases else "nothing speaks for the class, so there is no region"
            figures = [self._draw_case(case, words, side) for case in cases]
            rows.append(FigureRow(f"Nearest by the {words}", note, figures))
        return rows

    def _draw_case(self, case: SimilarCase, words: str, side: int) -> Figure:
        """Draw a case; where the region is compared, with its evidence."""
        all_weights = self.index.weights if words == REGION else None
        weights = None if all_weights is None else all_weights[case.row]
        image = draw_case(self.index, case.row, side, weights)
        said = "" if case.predicted is None else f", predicted {case.predicted}"
        note = f"distance {format_distance(case.distance)}{said if case.label else ''}"
        alt = f"{case.name}: {case.title}, {note}"
        return Figure(case.title, embed_image(image, side), alt, f"{note}, {case.name}")

    def _list_groups(self) -> Iterator[tuple[str, tuple[SimilarCase, ...]]]:
        yield WHOLE, self.by_features
        if self.by_region is not None:
            yield REGION, self.by_region

    def _name_image(self) -> str:
        return Path(self.stored.name).name

    def _describe_prediction(self) -> str:
        if self.predicted is None or self.probability is None:
            return ""
        return f": {self.predicted.short_name} ({format_percent(self.probability)})"

    def _describe_nearest(self) -> str:
        nearest = self.by_features[0]
        distance = format_distance(nearest.distance)
        return f"the nearest case is {nearest.name}, at a distance of {distance}."

    def _is_label_missing(self) -> bool:
        """Say whether other cases have labels, and none of these is the predicted class."""
        labels = [
            label for row, label in enumerate(self.labels) if label is not None and row != self.own
        ]
        return bool(labels) and not any(self._is_predicted(label) for label in labels)

    def _is_predicted(self, label: str) -> bool:
        """Say whether a label names the predicted class; several have `|` between them."""
        if self.predicted is None:
            return False
        # a label may not say which of two classes of equal names it is
        return not {self.predicted.short_name, self.predicted.name}.isdisjoint(label.split("|"))

    def _count_labels(self, words: str, cases: Sequence[SimilarCase]) -> FindingLine | None:
        """Return how many of the nearest cases share the predicted class, against chance."""
        if self.predicted is None or not cases or self._is_label_missing():
            return None
        name = self.predicted.short_name
        regions = self.index.region_features if words == REGION else None
        labelled = [
            label
            for row, label in enumerate(self.labels)
            if label is not None and row != self.own and (regions is None or regions[row].any())
        ]
        own = [case.label for case in cases if case.label is not None]
        if not own:
            return None
        same, total = (sum(map(self._is_predicted, each)) for each in (own, labelled))
        expected = len(own) * total / len(labelled)
        chance = compute_chance(same, len(own), total, len(labelled))
        text = (
            f"{same} of the {len(own)} nearest cases by the {words} are labelled {name}, as the "
            f"classifier says; by chance it would be {expected:.1f}."
        )
        return FindingLine(text, "clear" if chance < CHANCE else "chance")

    def _repr_html_(self) -> str:
        """Return the finding and the pictures, for notebooks."""
        finding = self.finding
        rows = [row.figures for row in self.make_rows(PICTURE_SIDE)]
        return render_output([finding.headline], rows, notes=[finding.certainty])

    def __repr__(self) -> str:
        return "\n".join(self.lines)


def compute_chance(same: int, drawn: int, marked: int, total: int) -> float:
    """Return the probability to draw at least this many marked cases by chance.

    Args:
        same: marked cases among those that were drawn.
        drawn: how many were drawn, without replacement.
        marked: how many of all cases are marked.
        total: how many cases there are.

    Returns:
        The probability.

    >>> compute_chance(0, 3, 5, 10), round(compute_chance(3, 3, 5, 10), 4)
    (1.0, 0.0833)
    """
    ways = math.comb(total, drawn)
    tail = sum(
        math.comb(marked, k) * math.comb(total - marked, drawn - k) for k in range(same, drawn + 1)
    )
    return min(1.0, tail / ways)


def draw_case(
    index: CaseIndex,
    row: int,
    side: int,
    weights: Float[Tensor, "rows columns"] | None = None,
) -> Image.Image:
    """Draw the picture of one case, with its evidence where there is some.

    Args:
        index: the cases.
        row: row of the case.
        side: longest side in pixels.
        weights: weights of its region, which are drawn as heat; None draws the picture alone.

    Returns:
        A Pillow image.
    """
    picture = shrink_picture(index.source.picture(index.positions[row]), side)
    if weights is None:
        return render.to_image(picture)
    return render.draw_overlay(picture, weights / weights.max().clamp(min=1e-9))


def _describe_cases(cases: Sequence[SimilarCase]) -> list[dict[str, Any]]:
    return [
        {
            "name": case.name,
            "label": case.label,
            "predicted": case.predicted,
            "probability": _round_figure(case.probability),
            "distance": _round_figure(case.distance),
        }
        for case in cases
    ]


def _round_figure(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
