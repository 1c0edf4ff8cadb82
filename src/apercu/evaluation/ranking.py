"""The ranking of a comparison: order of the explainers, verdicts, and texts of the cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from apercu.evaluation.results import (
    ComparisonResults,
    MetricRow,
    is_fixed_threshold,
    name_at_fixed_threshold,
)
from apercu.methods import TrueBox
from apercu.methods.own import FUNCTION
from apercu.metrics.registry import METRICS
from apercu.statistics import adjust_holm, bootstrap_interval, sign_flip_test

SIGNIFICANCE = 0.05
"""Adjusted p below which two explainers are said to differ."""

MAIN_METRICS = ("saliency_metric", "localisation_error", "pointing_game", "iauc", "iou", "dauc")
"""The metrics that a headline names and that are drawn against cost, most important first."""

Verdict: TypeAlias = Literal["better", "worse", "even"]


@dataclass(frozen=True)
class PairedDifference:
    """How much one explainer's score exceeds another's on the images that both have.

    Attributes:
        difference: the mean over the images.
        ci95: its bootstrapped interval.
        p: the two-sided p value of a sign-flip test, adjusted for all comparisons of this metric
            (Holm 1979).
        n: the number of images.
    """

    difference: float
    ci95: tuple[float, float]
    p: float
    n: int


@dataclass(frozen=True)
class RankingCell:
    """One value of the ranking as it is shown.

    Attributes:
        value: the text of the value.
        interval: the text of its 95 % interval.
        threshold: the threshold that its maps were cut at, where there is one.
        threshold_from: where that threshold comes from.
        best: whether the value is the best of its column.
        left: the start of the interval on the column's scale, in per cent.
        width: the width of the interval on that scale, in per cent.
        point: the place of the value on that scale, in per cent.
        paired: the difference from the explainer of `find_reference`.
        verdict: what that difference means.
    """

    value: str
    interval: str
    threshold: float | None
    threshold_from: str | None
    best: bool
    left: float
    width: float
    point: float
    paired: PairedDifference | None
    verdict: Verdict | None


@dataclass(frozen=True)
class RankingRow:
    """One explainer in the ranking.

    Attributes:
        name: the explainer's name.
        knows_truth: whether it is given the true boxes.
        at_fixed_threshold: whether it is the second row of an explainer, at the fixed threshold.
        cells: the values by metric.
    """

    name: str
    knows_truth: bool
    at_fixed_threshold: bool
    cells: Mapping[str, RankingCell]


def build_ranking(results: ComparisonResults) -> list[RankingRow]:
    """Return the rows of the table, best mean rank first.

    What knows the truth comes last, without a rank. A row at the fixed threshold stands below the
    one that it varies, and does not compete.
    """
    cells = {(row.explainer, row.metric): row for row in results.rows}
    ranks = _rank_explainers(results)
    ranked = sorted(ranks, key=lambda name: _mean_rank(ranks[name]))
    fixed = {row.explainer for row in results.rows if is_fixed_threshold(row.explainer)}
    order = [
        name
        for plain in ranked
        for name in (plain, name_at_fixed_threshold(plain))
        if name == plain or name in fixed
    ]
    reference = find_reference(results)
    seed = int(results.key.settings.get("seed", 0))
    pairs = {
        metric: compute_paired_differences(results, metric, reference, seed) if reference else {}
        for metric in list_metrics(results)
    }
    return [
        RankingRow(
            name=name,
            knows_truth=not ranks.get(name, [0]),
            at_fixed_threshold=name in fixed,
            cells={
                metric: _build_cell(results, cells[name, metric], pairs[metric].get(name))
                for metric in pairs
                if (name, metric) in cells
            },
        )
        for name in order
    ]


def write_headline(results: ComparisonResults) -> str:
    """Return a sentence that says which explainer is first on the main metrics.

    A second one says whose maps are constant, and show nothing.
    """
    metrics = list_metrics(results)
    winners = name_winners(
        results, [metric for metric in metrics if metric in MAIN_METRICS] or metrics
    )
    return f"{winners} {describe_constant_maps(results)}".rstrip()


def describe_constant_maps(results: ComparisonResults) -> str:
    """Return a sentence that counts constant maps by explainer; empty where there are none.

    Baselines, which need nothing of the classifier, are left out: some are constant by design. What
    a function needs is not known.
    """
    counts = [
        f"{name} on {count} images"
        for name, count in results.constant.items()
        if results.needs[name] or results.explainers[name].startswith(FUNCTION)
    ]
    return f"Constant maps, which show nothing: {', '.join(counts)}." if counts else ""


def name_winners(results: ComparisonResults, metrics: Sequence[str]) -> str:
    """Return a sentence that says which explainer is first on which metrics; ties share a place."""
    winners: dict[str, list[str]] = {}
    for metric in metrics:
        record, contenders = results.get_metric(metric), _list_contenders(results, metric)
        if contenders:
            best = contenders[0].value
            names = _join_words([row.explainer for row in contenders if row.value == best])
            words = f"{record.phrase} ({record.format_value(best)})"
            winners.setdefault(names, []).append(words)
    parts = [f"First on {_join_words(words)}: {names}" for names, words in winners.items()]
    return ". ".join(parts or ["Nothing was measured"]) + "."


def list_metrics(results: ComparisonResults) -> list[str]:
    """Return the metrics that any row has, in the order of the columns."""
    measured = {row.metric for row in results.rows}
    return [metric for metric in (*METRICS, *results.own_metrics) if metric in measured]


def count_images(results: ComparisonResults) -> dict[str, int]:
    """Return on how many images each metric is reported, without those that chose thresholds."""
    return {
        metric: max(row.n for row in results.rows if row.metric == metric)
        for metric in list_metrics(results)
    }


def has_thresholds(results: ComparisonResults) -> bool:
    """Whether one half of the images chose thresholds for any of the metrics."""
    return any(results.get_metric(metric).thresholded for metric in list_metrics(results))


def find_best_trained(results: ComparisonResults) -> str | None:
    """Return the trained explainer with the best mean rank: the others are compared with it."""
    ranks = _rank_explainers(results)
    return min(
        list_trained(results), key=lambda name: _mean_rank(ranks.get(name, ())), default=None
    )


def find_reference(results: ComparisonResults) -> str | None:
    """Return the explainer that the others are compared with, image by image.

    That is the one that was named for it, or else the best trained one, or else the first one of
    the ranking. None where nothing else competes, or where the named one was not measured.
    """
    if results.against is not None:
        return results.against if results.against in results.explainers else None
    if (trained := find_best_trained(results)) is not None:
        return trained
    ranks = {name: _mean_rank(each) for name, each in _rank_explainers(results).items() if each}
    return min(ranks, key=ranks.__getitem__) if len(ranks) > 1 else None


def describe_reference(results: ComparisonResults) -> str:
    """Return a sentence that says what the marks mean, and against whom the test is.

    Empty where nothing is compared.
    """
    reference = find_reference(results)
    if reference is None:
        missing = results.against
        return "" if missing is None else f"{missing} was not measured, so nothing is tested."
    if results.against is not None:
        why = ""
    elif reference in list_trained(results):
        why = ", the best trained explainer,"
    else:
        why = ", the first one of the ranking,"
    return (
        f"▲ better and ▼ worse than {reference}{why} on the same images: sign-flip test on the "
        f"paired differences, p < {SIGNIFICANCE} after Holm's adjustment for all rows of the "
        "column; without a mark the difference may be chance."
    )


def list_trained(results: ComparisonResults) -> list[str]:
    """Return the names of the explainers that need training."""
    return [name for name, needs in results.needs.items() if "training" in needs]


def sort_needs(results: ComparisonResults) -> dict[str, tuple[str, ...]]:
    """Return what each explainer needs, those with the fewest needs first."""
    return dict(sorted(results.needs.items(), key=lambda pair: len(pair[1])))


def find_direction(results: ComparisonResults, metric: str) -> str:
    """Return whether `lower` or `higher` values of a metric are better."""
    return next(row.better for row in results.rows if row.metric == metric)


def is_true_box(results: ComparisonResults, explainer: str) -> bool:
    """Whether an explainer is given the true boxes, and so does not compete."""
    return results.explainers.get(explainer) == TrueBox().cache_key


def compute_paired_differences(
    results: ComparisonResults, metric: str, reference: str, seed: int = 0
) -> dict[str, PairedDifference]:
    """Return the difference of every explainer from a reference on one metric.

    The true boxes are compared like the others. An explainer that has no image in common with the
    reference is left out.

    Args:
        results: the scores of each image.
        metric: the metric in question.
        reference: the explainer that the others are compared with.
        seed: the seed of the interval and of the test.

    Returns:
        The differences by explainer.
    """
    of_reference = results.scores.get((reference, metric), {})
    differences: dict[str, Float[np.ndarray, " images"]] = {}
    for (explainer, measured), scores in results.scores.items():
        shared = [image for image in scores if image in of_reference]
        if measured == metric and explainer != reference and shared:
            differences[explainer] = np.array([scores[i] - of_reference[i] for i in shared])
    p = adjust_holm({name: sign_flip_test(values, seed) for name, values in differences.items()})
    return {
        name: PairedDifference(
            float(values.mean()), bootstrap_interval(values, seed), p[name], len(values)
        )
        for name, values in differences.items()
    }


def _build_cell(
    results: ComparisonResults, row: MetricRow, pair: PairedDifference | None
) -> RankingCell:
    """Return the texts of a value, and where its interval lies on the scale of its column."""
    metric = results.get_metric(row.metric)
    others = [other for other in results.rows if other.metric == row.metric]
    low = min(other.ci95[0] for other in others)
    span = max(other.ci95[1] for other in others) - low or 1.0
    best = _list_contenders(results, row.metric)[0] if _is_contender(results, row) else None
    return RankingCell(
        value=metric.format_value(row.value),
        interval=" to ".join(metric.format_value(end) for end in row.ci95),
        threshold=row.threshold,
        threshold_from=row.threshold_from,
        best=best is not None and row.value == best.value,
        left=100 * (row.ci95[0] - low) / span,
        width=100 * (row.ci95[1] - row.ci95[0]) / span,
        point=100 * (row.value - low) / span,
        paired=pair,
        verdict=None if pair is None else _decide_verdict(row, pair),
    )


def _decide_verdict(row: MetricRow, pair: PairedDifference) -> Verdict:
    """Return what a difference from the reference says about the row."""
    if pair.p >= SIGNIFICANCE:
        return "even"
    return "better" if (pair.difference < 0) == (row.better == "lower") else "worse"


def _rank_explainers(results: ComparisonResults) -> dict[str, list[int]]:
    """Return the ranks of each explainer, metric by metric, among those that compete."""
    ranks: dict[str, list[int]] = {
        row.explainer: [] for row in results.rows if not is_fixed_threshold(row.explainer)
    }
    for metric in list_metrics(results):
        contenders = _list_contenders(results, metric)
        for row in contenders:
            better = sum(_sort_key(other) < _sort_key(row) for other in contenders)
            ranks[row.explainer].append(better)
    return ranks


def _list_contenders(results: ComparisonResults, metric: str) -> list[MetricRow]:
    """Return the rows of a metric that compete, best first."""
    rows = [row for row in results.rows if row.metric == metric and _is_contender(results, row)]
    return sorted(rows, key=_sort_key)


def _is_contender(results: ComparisonResults, row: MetricRow) -> bool:
    """Whether a row competes: not given the truth, and no explainer's second row."""
    return not is_true_box(results, row.explainer) and not is_fixed_threshold(row.explainer)


def _sort_key(row: MetricRow) -> float:
    """Return a number that is lower for better rows."""
    return row.value if row.better == "lower" else -row.value


def _mean_rank(ranks: Sequence[int]) -> float:
    return sum(ranks) / len(ranks) if ranks else float("inf")


def _join_words(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
