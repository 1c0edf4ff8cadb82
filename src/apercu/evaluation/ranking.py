"""Rows as a table for people: order, verdicts, and where each interval lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from statistics import median
from typing import Any

from apercu.evaluation.formatting import COLUMNS, format_value
from apercu.evaluation.paired import PairedDifference, compute_paired_differences
from apercu.evaluation.results import (
    ComparisonResults,
    Cost,
    MetricRow,
    fixed_threshold_name,
    is_fixed_threshold,
)
from apercu.methods import TrueBox

SIGNIFICANCE = 0.05
"""Adjusted p below which two explainers are said to differ."""


MAIN_METRICS = ("saliency_metric", "localisation_error", "pointing_game", "iauc", "iou", "dauc")
"""The metrics that a headline speaks of, and that are drawn against cost, most telling first."""


def write_headline(results: ComparisonResults) -> str:
    """Who is first on the main metrics that were measured, in a sentence."""
    metrics = list_metrics(results)
    return name_winners(
        results, [metric for metric in metrics if metric in MAIN_METRICS] or metrics
    )


def name_winners(results: ComparisonResults, metrics: Sequence[str]) -> str:
    """Who is first on what, in a sentence; who is first together is named together."""
    found: dict[str, list[str]] = {}
    for metric in metrics:
        column, rivals = COLUMNS[metric], _list_contenders(results, metric)
        if rivals:
            best = rivals[0].value
            names = _join_words([row.explainer for row in rivals if row.value == best])
            found.setdefault(names, []).append(f"{column.words} ({format_value(column, best)})")
    parts = [f"First on {_join_words(words)}: {names}" for names, words in found.items()]
    return ". ".join(parts or ["Nothing was measured"]) + "."


def _join_words(words: Sequence[str]) -> str:
    *some, last = words
    return f"{', '.join(some)} and {last}" if some else last


def list_metrics(results: ComparisonResults) -> list[str]:
    """The metrics that any row has, in the order of the columns."""
    return [metric for metric in COLUMNS if any(row.metric == metric for row in results.rows)]


def count_images(results: ComparisonResults) -> dict[str, int]:
    """On how many images each metric was reported, without those that chose thresholds."""
    return {
        metric: max(row.n for row in results.rows if row.metric == metric)
        for metric in list_metrics(results)
    }


def best_trained(results: ComparisonResults) -> str | None:
    """The trained explainer of the best mean rank: the one that the others are held against."""
    ranks = _rank_explainers(results)
    return min(
        list_trained(results), key=lambda name: _mean_rank(ranks.get(name, ())), default=None
    )


def list_trained(results: ComparisonResults) -> list[str]:
    """Names of the explainers that were trained."""
    return [name for name, words in results.needs.items() if "training" in words]


def sort_needs(results: ComparisonResults) -> dict[str, tuple[str, ...]]:
    """What each explainer takes, those with the fewest needs first."""
    return dict(sorted(results.needs.items(), key=lambda pair: len(pair[1])))


def compare_costs(results: ComparisonResults) -> list[dict[str, Any]]:
    """Costs, each with the number of images after which each trained explainer is ahead.

    That is where its training and its time per image are less than the other's time alone, as
    `evened` has it; left out where the other is as fast, or was trained too.
    """
    ours, found = list_trained(results), []
    even = equalise_costs(results)
    for cost, other in zip(results.cost, even, strict=True):
        rivals = [
            own
            for own in even
            if own.explainer in ours and (own.batch, own.device) == (cost.batch, cost.device)
        ]
        ahead = {
            own.explainer: _count_break_even(own, other)
            for own in rivals
            if cost.explainer not in ours and own.ms_per_image < other.ms_per_image
        }
        found.append({"cost": cost, "break_even": ahead})
    return found


def equalise_costs(results: ComparisonResults) -> list[Cost]:
    """The costs as if the machine had been equally busy throughout.

    A method is timed by turns with the classifier, but hours may lie between two methods. So each
    takes its own number of forwards, times the median forward of that batch.
    """
    forwards: dict[tuple[str, int], list[float]] = {}
    for cost in results.cost:
        one = cost.ms_per_image / cost.classifier_forwards
        forwards.setdefault((cost.device, cost.batch), []).append(one)
    return [
        replace(
            cost,
            ms_per_image=cost.classifier_forwards * median(forwards[cost.device, cost.batch]),
        )
        for cost in results.cost
    ]


def format_break_even(ahead: Mapping[str, int]) -> str:
    """Numbers of images; of several trained explainers, each with its name.

    >>> break_even_text({"mask": 1200}), break_even_text({"a": 1200, "b": 7})
    ('1,200', 'a 1,200, b 7')
    """
    if len(ahead) == 1:
        return f"{next(iter(ahead.values())):,}"
    return ", ".join(f"{name} {count:,}" for name, count in ahead.items())


def _count_break_even(trained: Cost, other: Cost) -> int:
    seconds = trained.training_seconds - other.training_seconds
    return max(0, ceil(1000 * seconds / (other.ms_per_image - trained.ms_per_image)))


def _rank_explainers(results: ComparisonResults) -> dict[str, list[int]]:
    """Places of each row's explainer, metric by metric, among those that are not told the truth."""
    ranks: dict[str, list[int]] = {
        row.explainer: [] for row in results.rows if not is_fixed_threshold(row.explainer)
    }
    for metric in COLUMNS:
        rivals = _list_contenders(results, metric)
        for row in rivals:
            ranks[row.explainer].append(sum(_sort_key(one) < _sort_key(row) for one in rivals))
    return ranks


def build_ranking(results: ComparisonResults) -> list[dict[str, Any]]:
    """Table rows, best mean rank first; what knows the truth comes last, without a rank.

    A row at the fixed threshold stands below the one it varies, and takes part in no contest.
    """
    cells = {(row.explainer, row.metric): row for row in results.rows}
    ranks = _rank_explainers(results)
    ranked = sorted(ranks, key=lambda name: _mean_rank(ranks[name]))
    variants = {row.explainer for row in results.rows if is_fixed_threshold(row.explainer)}
    order = [
        each
        for n in ranked
        for each in (n, fixed_threshold_name(n))
        if each == n or each in variants
    ]
    reference = best_trained(results)
    seed = int(results.key.settings.get("seed", 0))
    pairs = {
        metric: compute_paired_differences(results, metric, reference, seed) if reference else {}
        for metric in COLUMNS
    }
    return [
        {
            "name": name,
            "told": not ranks.get(name, [0]),
            "variant": name in variants,
            "cells": {
                metric: _build_cell(results, cells[name, metric], pairs[metric].get(name))
                for metric in COLUMNS
                if (name, metric) in cells
            },
        }
        for name in order
    ]


def _build_cell(
    results: ComparisonResults, row: MetricRow, pair: PairedDifference | None
) -> dict[str, Any]:
    """Words for a value, where its interval lies on the column's scale in per cent, and whether it
    differs from the best trained explainer's."""
    column = COLUMNS[row.metric]
    others = [other for other in results.rows if other.metric == row.metric]
    low = min(other.ci95[0] for other in others)
    span = max(other.ci95[1] for other in others) - low or 1.0
    best = _list_contenders(results, row.metric)[0] if _is_contender(results, row) else None
    return {
        "value": format_value(column, row.value),
        "interval": " to ".join(format_value(column, end) for end in row.ci95),
        "threshold": row.threshold,
        "threshold_from": row.threshold_from,
        "best": best is not None and row.value == best.value,
        "left": 100 * (row.ci95[0] - low) / span,
        "width": 100 * (row.ci95[1] - row.ci95[0]) / span,
        "point": 100 * (row.value - low) / span,
        "paired": pair,
        "verdict": None if pair is None else _decide_verdict(row, pair),
    }


def _decide_verdict(row: MetricRow, pair: PairedDifference) -> str:
    """`better`, `worse` or `even`, as seen from the row."""
    if pair.p >= SIGNIFICANCE:
        return "even"
    return "better" if (pair.difference < 0) == (row.better == "lower") else "worse"


def _list_contenders(results: ComparisonResults, metric: str) -> list[MetricRow]:
    """Rows of a metric that take part in the contest, best first."""
    rows = [row for row in results.rows if row.metric == metric and _is_contender(results, row)]
    return sorted(rows, key=_sort_key)


def find_direction(results: ComparisonResults, metric: str) -> str:
    return next(row.better for row in results.rows if row.metric == metric)


def _sort_key(row: MetricRow) -> float:
    return row.value if row.better == "lower" else -row.value


def _is_contender(results: ComparisonResults, row: MetricRow) -> bool:
    """Whether a row is a rival: not told the truth, and no explainer's second row."""
    told = results.explainers.get(row.explainer) == TrueBox().cache_key
    return not told and not is_fixed_threshold(row.explainer)


def _mean_rank(ranks: Sequence[int]) -> float:
    return sum(ranks) / len(ranks) if ranks else float("inf")
