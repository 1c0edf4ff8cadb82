"""The page on a guard: false alarms, and what is recognised, by kind of images."""

from __future__ import annotations

from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from apercu.classifiers.calibration import CHANCE_FACTOR, GOOD_CALIBRATION
from apercu.guard.guard import Guard
from apercu.guard.signals import KINDS
from apercu.io import write_file
from apercu.pages import Finding, FindingLine, Mark, count_noun, render_page
from apercu.pages.charts import draw_lines
from apercu.robustness.guards.results import CLEAN, GuardRow, GuardRows, Verdicts, score_verdicts
from apercu.verdicts import QUESTIONS

REPORT = "report.html"
COLOURS = 6
"""Curves of a chart."""
POINTS = 50
"""Steps of the false-alarm rate in a curve."""


def write_guard_report(
    guard: Guard, verdicts: Verdicts, rows: GuardRows, out: Path, about: dict[str, Any]
) -> Path:
    """Write the report of a measurement.

    Args:
        guard: the guard.
        verdicts: what it said of the images of each kind.
        rows: the figures.
        out: folder of the report.
        about: what the results name: images, command and machine.

    Returns:
        The path of the report.
    """
    page = render_page(
        (files("apercu.robustness.guards") / "guard.html").read_text(encoding="utf-8"),
        finding=write_finding(guard, rows, verdicts.fitted),
        record=guard.record,
        signals=[KINDS[name] for name in guard.record.signals],
        charts=draw_curves(guard, verdicts),
        questions=(*QUESTIONS, "either"),
        lines=_list_lines(rows, verdicts),
        about=about,
    )
    return write_file(out / REPORT, page)


def _list_lines(
    rows: GuardRows, verdicts: Verdicts
) -> list[tuple[str, int, list[tuple[GuardRow | None, GuardRow | None]]]]:
    """Return name and number of each kind, with AUROC and alarms of every question."""
    cells = {(row.images, row.question, row.metric): row for row in rows}
    lines = []
    for name in dict.fromkeys(row.images for row in rows if row.question in QUESTIONS):
        pairs = [
            (cells.get((name, question, "auroc")), cells.get((name, question, "alarms")))
            for question in (*QUESTIONS, "either")
        ]
        lines.append((name, verdicts.counts[name], pairs))
    return lines


def write_finding(guard: Guard, rows: GuardRows, fitted: int | None) -> Finding:
    """Return what was found: false alarms, and the kind that is recognised worst.

    Args:
        guard: the guard.
        rows: the figures.
        fitted: number of the clean images that the guard was fitted to; None if that is not known.

    Returns:
        The sentences.
    """
    alarms = [row for row in rows if row.metric == "alarms" and row.question == "either"]
    clean = next(row for row in alarms if row.images == CLEAN)
    others = sorted((row for row in alarms if row.images != CLEAN), key=lambda row: row.value)
    headline = f"{clean.value:.0%} of clean images raise an alarm"
    if others:
        headline += f", and {others[0].value:.0%} to {others[-1].value:.0%} of the other kinds."
    low, high = clean.ci95
    certainty = (
        f"{count_noun(clean.n, 'clean image')}{_describe_fitted(fitted)}; the "
        f"95\u00a0% interval of the false alarms is {low:.0%} to {high:.0%}."
    )
    expected = 1 - (1 - guard.record.false_alarms) ** len(QUESTIONS)
    lines = [
        FindingLine(
            f"The guard was fitted for {guard.record.false_alarms:.0%} of false alarms for each "
            f"question, {expected:.0%} at most for both.",
            "plain" if low <= expected else "warning",
        )
    ]
    if fitted:
        lines.append(
            FindingLine(
                f"The guard was fitted to {fitted} of these {clean.n} clean images, so their "
                "false alarms come out too low; measure with others.",
                "warning",
            )
        )
    lines += _describe_calibration(rows)
    lines += [FindingLine(_describe_kind(row), _mark(row, clean)) for row in others]
    return Finding(headline, certainty, tuple(lines))


def _describe_fitted(fitted: int | None) -> str:
    """Return what is said of clean images by the number of those that the guard was fitted to."""
    if fitted is None:
        return " (this guard does not say which images it was fitted to)"
    return "" if fitted else " that nothing was fitted to"


def _describe_calibration(rows: GuardRows) -> list[FindingLine]:
    """Return how far confidences are from frequencies; nothing where labels are missing."""
    cells = {row.metric: row for row in rows if row.question == "confidence"}
    if not cells:
        return []
    after, before = cells["calibration_error"], cells["calibration_error_before"]
    low, high = after.ci95
    chance = cells.get("calibration_error_by_chance")  # older results do not have it
    expected = "" if chance is None else f"; perfect ones would have {chance.value:.3f} by chance"
    limit = max(GOOD_CALIBRATION, 0 if chance is None else CHANCE_FACTOR * chance.value)
    return [
        FindingLine(
            f"Predictions are right on {cells['accuracy'].value:.0%} of {after.n} clean images; "
            f"the calibration error of the confidence is {after.value:.3f} ({low:.3f} to "
            f"{high:.3f}), of the classifier's own probability {before.value:.3f}{expected}.",
            "plain" if after.value <= limit else "warning",
        )
    ]


def _describe_kind(row: GuardRow) -> str:
    low, high = row.ci95
    return f"{row.images}: {row.value:.0%} raise an alarm ({low:.0%} to {high:.0%})."


def _mark(row: GuardRow, clean: GuardRow) -> Mark:
    """Return a warning where a kind is no more noticed than clean images are."""
    return "warning" if row.ci95[0] <= clean.ci95[1] else "plain"


def draw_curves(guard: Guard, verdicts: Verdicts) -> list[dict[str, Any]]:
    """Return charts for each question: what is recognised over the rate of false alarms.

    Attacks and unknown kinds have charts of their own, each with as many curves as it has colours.
    """
    scores = {name: score_verdicts(guard, rows) for name, rows in verdicts.rows.items()}
    kinds = [name for name, rows in verdicts.rows.items() if name != CLEAN and len(rows)]
    rates = np.linspace(0, 1, POINTS + 1)
    groups = {
        "attacks": [name for name in kinds if name in verdicts.attacks],
        "unknown kinds": [name for name in kinds if name not in verdicts.attacks],
    }
    charts = []
    for question, (group, names) in product(QUESTIONS, groups.items()):
        limits = np.quantile(scores[CLEAN][question], 1 - rates)
        parts = [names[start : start + COLOURS] for start in range(0, len(names), COLOURS)]
        for number, part in enumerate(parts, 1):
            curves = {
                name: [float((scores[name][question] > limit).mean()) for limit in limits]
                for name in part
            }
            drawing = draw_lines(
                curves, part, (), "false alarms, %", y_title="fraction above the limit"
            )
            which = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
            charts.append(
                {
                    "title": f"{question}: {group}{which}",
                    "drawing": Markup(drawing),
                    "names": part,
                    "others": "",
                }
            )
    return charts
