"""The ranking of a comparison: order of the explainers, verdicts, and texts of the cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from apercu.evaluation.results import (
    ComparisonResults,
    MetricRow,
    is_fixed_threshold,
    name_at_fixed_threshold,
)
from apercu.methods import CentreBlob, CentreBox, Edges, RandomMap, TrueBox, WholeBox
from apercu.metrics import MetricRecord
from apercu.metrics.registry import METRICS
from apercu.statistics import adjust_holm, bootstrap_interval, sign_flip_test

SIGNIFICANCE = 0.05
"""Adjusted p below which two explainers are said to differ."""

MAIN_METRICS = ("saliency_metric", "localisation_error", "pointing_game", "iauc", "iou", "dauc")
"""The metrics that a headline names and that are drawn against cost, most important first."""

BASELINE_WORDS = {
    WholeBox: "the whole image",
    CentreBox: "a box in the middle of the image",
    CentreBlob: "a blob in the middle of the image",
    RandomMap: "random numbers",
    Edges: "the edges of the image",
}
"""Baselines, which never look at the classifier, in plain words."""

Verdict: TypeAlias = Literal["better", "worse", "even"]
Group: TypeAlias = Literal["explainer", "baseline", "truth"]
"""What looks at the classifier, what never does, and what is given the true boxes."""


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
        other_threshold: that of the other half of the images, where each has its own.
        threshold_from: where that threshold comes from.
        best: whether no row of its column is better, but for the true boxes, and it is better than
            every other explainer beyond chance (paired test).
        left: the start of the interval on the column's scale, in per cent.
        width: the width of the interval on that scale, in per cent.
        point: the place of the value on that scale, in per cent.
        paired: the difference from the explainer of `find_reference`.
        verdict: what that difference means.
    """

    value: str
    interval: str
    threshold: float | None
    other_threshold: float | None
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
        group: whether it looks at the classifier; baselines and the true boxes do not compete.
        at_fixed_threshold: whether it is the second row of an explainer, at the fixed threshold.
        cells: the values by metric.
    """

    name: str
    group: Group
    at_fixed_threshold: bool
    cells: Mapping[str, RankingCell]


@dataclass(frozen=True)
class Leader:
    """The best explainer on one metric, and what the paired tests say about its lead.

    Attributes:
        row: the row with the best value of the explainers; baselines do not compete.
        others: the rows of the other explainers, best first.
        baselines: the rows of the baselines, best first.
        pairs: the differences of other rows from the best one, by explainer.
    """

    row: MetricRow
    others: tuple[MetricRow, ...]
    baselines: tuple[MetricRow, ...]
    pairs: Mapping[str, PairedDifference]

    @property
    def is_clear(self) -> bool:
        """Whether there are others, and it is better than each of them beyond chance."""
        return bool(self.others) and all(self.judge(row) == "worse" for row in self.others)

    @property
    def is_tested(self) -> bool:
        """Whether there are others, and images that all of them share."""
        return bool(self.others) and all(row.explainer in self.pairs for row in self.others)

    def judge(self, row: MetricRow) -> Verdict | None:
        """Return what the test says of another row; None where it was not tested."""
        pair = self.pairs.get(row.explainer)
        return None if pair is None else _decide_verdict(row, pair)


def build_ranking(results: ComparisonResults) -> list[RankingRow]:
    """Return the rows of the table: explainers, then baselines, then what knows the truth.

    In each group the best mean rank comes first. A row at the fixed threshold stands below the one
    that it varies, and does not compete.
    """
    cells = {(row.explainer, row.metric): row for row in results.rows}
    fixed = {row.explainer for row in results.rows if is_fixed_threshold(row.explainer)}
    order = [
        (name, group)
        for plain, group in _order_explainers(results)
        for name in (plain, name_at_fixed_threshold(plain))
        if name == plain or name in fixed
    ]
    reference = find_reference(results)
    seed = _get_seed(results)
    pairs = {
        metric: compute_paired_differences(results, metric, reference, seed) if reference else {}
        for metric in list_metrics(results)
    }
    winners = {metric: _find_winner(results, metric) for metric in pairs}
    return [
        RankingRow(
            name=name,
            group=group,
            at_fixed_threshold=name in fixed,
            cells={
                metric: _build_cell(
                    results,
                    cells[name, metric],
                    pairs[metric].get(name),
                    best=winners.get(metric) == name,
                )
                for metric in pairs
                if (name, metric) in cells
            },
        )
        for name, group in order
    ]


def _find_winner(results: ComparisonResults, metric: str) -> str | None:
    """Return the explainer to be marked as the best of a column: no row but the truth is better."""
    leader = find_leader(results, metric)
    if leader is None or not leader.is_clear:
        return None
    rows = [row for row in results.rows if row.metric == metric]
    rivals = [row for row in rows if not is_true_box(results, row.explainer)]
    is_first = all(_sort_key(row) >= _sort_key(leader.row) for row in rivals)
    return leader.row.explainer if is_first else None


def find_group(results: ComparisonResults, explainer: str) -> Group:
    """Return whether an explainer looks at the classifier."""
    if is_true_box(results, explainer):
        return "truth"
    return "explainer" if find_baseline(results, explainer) is None else "baseline"


def find_baseline(results: ComparisonResults, explainer: str) -> str | None:
    """Return what a baseline shows, in plain words; None of what is no baseline."""
    cache_key = results.explainers.get(explainer, "")
    words = (text for kind, text in BASELINE_WORDS.items() if f"{kind.__name__}(" in cache_key)
    return None if results.needs.get(explainer) else next(words, None)


def find_leader(results: ComparisonResults, metric: str) -> Leader | None:
    """Return the best explainer on a metric; None where no explainer was measured on it."""
    contenders = _list_contenders(results, metric, "explainer")
    if not contenders:
        return None
    best, *others = contenders
    pairs = compute_paired_differences(results, metric, best.explainer, _get_seed(results))
    baselines = _list_contenders(results, metric, "baseline")
    return Leader(best, tuple(others), tuple(baselines), pairs)


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


def find_best_trained(results: ComparisonResults) -> str | None:
    """Return the trained explainer with the best mean rank: the others are compared with it."""
    trained = list_trained(results)
    return next((name for name, _ in _order_explainers(results) if name in trained), None)


def find_reference(results: ComparisonResults) -> str | None:
    """Return the explainer that the others are compared with, image by image.

    That is the one that was named for it, or else the best trained one, or else the first one of
    the ranking. None where nothing else competes, or where the named one was not measured.
    """
    if results.against is not None:
        return results.against if results.against in results.explainers else None
    if (trained := find_best_trained(results)) is not None:
        return trained
    order = [name for name, group in _order_explainers(results) if group != "truth"]
    return order[0] if len(order) > 1 else None


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
    tested = {name: _test_difference(each.tobytes(), seed) for name, each in differences.items()}
    p = adjust_holm({name: each.p for name, each in tested.items()})
    return {name: replace(each, p=p[name]) for name, each in tested.items()}


@lru_cache(maxsize=4096)
def _test_difference(content: bytes, seed: int) -> PairedDifference:
    """Return the mean difference of some images, and its test without an adjustment.

    A table, a page and a headline need the same ones.
    """
    values = np.frombuffer(content)
    interval, p = bootstrap_interval(values, seed), sign_flip_test(values, seed)
    return PairedDifference(float(values.mean()), interval, p, len(values))


def _build_cell(
    results: ComparisonResults, row: MetricRow, pair: PairedDifference | None, *, best: bool
) -> RankingCell:
    """Return the texts of a value, and where its interval lies on the scale of its column."""
    metric = results.get_metric(row.metric)
    others = [other for other in results.rows if other.metric == row.metric]
    low = min(other.ci95[0] for other in others)
    span = max(other.ci95[1] for other in others) - low or 1.0
    return RankingCell(
        value=metric.format_value(row.value),
        interval=format_interval(metric, row),
        threshold=row.threshold,
        other_threshold=row.other_threshold,
        threshold_from=row.threshold_from,
        best=best,
        left=100 * (row.ci95[0] - low) / span,
        width=100 * (row.ci95[1] - row.ci95[0]) / span,
        point=100 * (row.value - low) / span,
        paired=pair,
        verdict=None if pair is None else _decide_verdict(row, pair),
    )


def format_interval(metric: MetricRecord, row: MetricRow) -> str:
    """Return the interval of a row as people read it; in words where it has no length."""
    if row.n == 1:
        return "one image"
    if row.ci95[0] == row.ci95[1]:
        return f"the same on all {row.n} images"
    return " to ".join(metric.format_value(end) for end in row.ci95)


def _decide_verdict(row: MetricRow, pair: PairedDifference) -> Verdict:
    """Return what a difference from the reference says about the row."""
    if pair.p >= SIGNIFICANCE:
        return "even"
    return "better" if (pair.difference < 0) == (row.better == "lower") else "worse"


def _order_explainers(results: ComparisonResults) -> list[tuple[str, Group]]:
    """Return the explainers with their groups, each group by its mean rank among its members."""
    groups: dict[Group, dict[str, list[int]]] = {"explainer": {}, "baseline": {}, "truth": {}}
    for row in results.rows:
        if not is_fixed_threshold(row.explainer):
            groups[find_group(results, row.explainer)].setdefault(row.explainer, [])
    for group, ranks in groups.items():
        for metric in list_metrics(results):
            contenders = _list_contenders(results, metric, group)
            for row in contenders:
                better = sum(_sort_key(other) < _sort_key(row) for other in contenders)
                ranks[row.explainer].append(better)
    order: list[tuple[str, Group]] = []
    for group, ranks in groups.items():
        means = {name: fmean(each) for name, each in ranks.items()}
        order += [(name, group) for name in sorted(means, key=means.__getitem__)]
    return order


def _list_contenders(results: ComparisonResults, metric: str, group: Group) -> list[MetricRow]:
    """Return the rows of a metric that compete inside a group, best first."""
    rows = [
        row
        for row in results.rows
        if row.metric == metric
        and not is_fixed_threshold(row.explainer)
        and find_group(results, row.explainer) == group
    ]
    return sorted(rows, key=_sort_key)


def _get_seed(results: ComparisonResults) -> int:
    return int(results.key.settings.get("seed", 0))


def _sort_key(row: MetricRow) -> float:
    """Return a number that is lower for better rows."""
    return row.value if row.better == "lower" else -row.value
