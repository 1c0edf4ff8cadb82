"""The figures of a guard: how often it is wrong on clean images, and what it recognises."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers.calibration import Reliability, measure_reliability
from apercu.guard.guard import Guard
from apercu.statistics import auroc, bootstrap_auroc, wilson_interval
from apercu.verdicts import COLUMNS, QUESTIONS

CLEAN: Final = "honest"
"""Name of the clean images in rows and files; older files have it, so it never changes."""
RESAMPLES: Final = 200
"""Resamples of the interval of a calibration error."""


class GuardRow(NamedTuple):
    """One number that was measured.

    Attributes:
        images: name of the kind of images, with the budget of an attack.
        question: `tampered`, `unknown` or `either`; `confidence` for clean images with labels.
        metric: `auroc`, against clean images; `alarms`, the fraction of images above the threshold
            of the guard, which for clean images are false alarms; `accuracy`, where clean and
            other images count the same. Of the confidence: `accuracy` of the predictions,
            `calibration_error`; `calibration_error_before`, of the classifier's probability; and
            `calibration_error_by_chance`, which perfect confidences would have.
        value: value of the metric.
        ci95: both ends of its 95 % interval.
        n: number of images; of an attack only those that fool the classifier.
    """

    images: str
    question: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int


class GuardRows(list[GuardRow]):
    """The rows of a measurement; printed and in a notebook a table."""

    def __str__(self) -> str:
        return "\n".join("  ".join(line) for line in self.table())

    def __repr__(self) -> str:
        return f"GuardRows({len(self)} rows)"

    def table(self) -> list[tuple[str, ...]]:
        """Return AUROC and alarms of each kind of images as texts, the heads first."""
        cells = {(row.images, row.question, row.metric): row for row in self}
        lines = []
        for name in dict.fromkeys(row.images for row in self if row.question in QUESTIONS):
            rows = [
                cells.get((name, question, metric))
                for question in QUESTIONS
                for metric in ("auroc", "alarms")
            ]
            count = next(str(row.n) for row in rows if row is not None)
            lines.append((name, count, *map(_format_row, rows)))
        heads = [f"{question}, {part}" for question in QUESTIONS for part in ("AUROC", "alarms")]
        return [("images", "n", *heads), *lines]

    def _repr_html_(self) -> str:
        """Return the table, for notebooks."""
        from apercu.pages import render_output

        heads, *cells = self.table()
        note = "AUROC: 1 separates all of these images from clean ones, 0.5 is chance."
        return render_output(header=heads, cells=cells, notes=[note])


def _format_row(row: GuardRow | None) -> str:
    if row is None:
        return "–"
    low, high = row.ci95
    if row.metric == "auroc":
        return f"{row.value:.3f} ({low:.3f} to {high:.3f})"
    return f"{row.value:.0%} ({low:.0%} to {high:.0%})"


class Verdicts(NamedTuple):
    """What the guard said of the images of each kind.

    Attributes:
        rows: the verdicts of each kind by name, `images × columns`.
        counts: number of images of each kind, also of those that an attack did not fool.
        clean: numbers of clean images: `correct`, 1 or 0, or −1 without a label, and `before`,
            the probability of the predicted class.
        attacks: names of the kinds that are attacks; the others are unknown.
        fitted: number of the clean images that the guard was fitted to; None where it does not
            say which those are.
    """

    rows: dict[str, Float[Tensor, "images columns"]]
    counts: dict[str, int]
    clean: dict[str, Tensor]
    attacks: tuple[str, ...] = ()
    fitted: int | None = None


def compute_rows(guard: Guard, verdicts: Verdicts, seed: int) -> GuardRows:
    """Compare the verdicts on each kind of images with those on clean ones.

    Args:
        guard: the guard.
        verdicts: verdicts of all kinds; those of clean images are there.
        seed: seed of the bootstrap.

    Returns:
        The rows.
    """
    scores = {name: score_verdicts(guard, rows) for name, rows in verdicts.rows.items()}
    rows = GuardRows(_compute_calibration(guard, verdicts, seed))
    for name, values in scores.items():
        for question in values:
            alarms = find_alarms(guard, verdicts.rows[name], question)
            count = len(alarms)
            if not count:
                continue
            rate, interval = float(alarms.mean()), wilson_interval(alarms)
            alarm_row = GuardRow(name, question, "alarms", rate, interval, count)
            if name == CLEAN:
                rows.append(alarm_row)
                continue
            clean = scores[CLEAN][question]
            area = auroc(clean, values[question])
            ends = bootstrap_auroc(clean, values[question], seed)
            passed = 1 - find_alarms(guard, verdicts.rows[CLEAN], question)
            rows += [
                GuardRow(name, question, "auroc", area, ends, count),
                alarm_row,
                _estimate_accuracy(alarm_row, passed),
            ]
    return rows


def _estimate_accuracy(alarms: GuardRow, passed: Float[np.ndarray, " clean"]) -> GuardRow:
    """Return how many are judged correctly where clean images and others count the same.

    Args:
        alarms: alarms of the other images.
        passed: 1 for each clean image without an alarm, else 0.

    Returns:
        The mean of both fractions, and of the ends of both intervals.
    """
    ends = zip(alarms.ci95, wilson_interval(passed), strict=True)
    low, high = (float(np.mean(pair)) for pair in ends)
    accuracy = float((alarms.value + passed.mean()) / 2)
    return alarms._replace(metric="accuracy", value=accuracy, ci95=(low, high))


def _compute_calibration(guard: Guard, verdicts: Verdicts, seed: int) -> list[GuardRow]:
    """Return accuracy and calibration error on clean images with labels, before and after."""
    labelled = verdicts.clean["correct"] >= 0
    count = int(labelled.sum())
    if not (count and guard.record.calibrated):
        return []
    correct = verdicts.clean["correct"][labelled].double()
    after = verdicts.rows[CLEAN][labelled, COLUMNS.index("confidence")].double()
    before = verdicts.clean["before"][labelled].double()
    interval = wilson_interval(correct.numpy())
    accuracy = float(correct.mean())
    rows = [GuardRow(CLEAN, "confidence", "accuracy", accuracy, interval, count)]
    draws = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed))
    for name, values in (("calibration_error", after), ("calibration_error_before", before)):
        error = _compare(values, correct).error
        errors = np.array([_compare(values[draw], correct[draw]).error for draw in draws])
        errors -= errors.mean() - error  # a smaller number of images has larger errors
        low, high = np.quantile(errors, [0.025, 0.975]).clip(0)
        ends = float(low), float(high)
        rows.append(GuardRow(CLEAN, "confidence", name, error, ends, count))
    chance = _compare(after, correct).chance_error
    name = "calibration_error_by_chance"
    rows.append(GuardRow(CLEAN, "confidence", name, chance, (chance, chance), count))
    return rows


def _compare(confidence: Tensor, correct: Tensor) -> Reliability:
    """Compare the confidences of predictions with how often they are right."""
    return measure_reliability(confidence[:, None], correct[:, None], is_multiple=True)


def score_verdicts(guard: Guard, verdicts: Tensor) -> dict[str, Float[np.ndarray, " images"]]:
    """Return the totals of each question, and of both, which have no ties as ranks have.

    Args:
        guard: the guard.
        verdicts: its verdicts, `images × columns`.

    Returns:
        One number per image by question.
    """
    totals = guard.network.cpu().combine(verdicts[:, len(COLUMNS) :]).double()
    scores = {question: totals[:, column].numpy() for column, question in enumerate(QUESTIONS)}
    return scores | {"either": totals.sum(1).numpy()}


def find_alarms(guard: Guard, verdicts: Tensor, question: str) -> Float[np.ndarray, " images"]:
    """Return 1 for each image that raises the alarm of a question, or either alarm, else 0."""
    above = verdicts[:, : len(QUESTIONS)].double() > guard.verdict_format.limit
    flags = above.any(1) if question == "either" else above[:, QUESTIONS.index(question)]
    return flags.double().numpy()
