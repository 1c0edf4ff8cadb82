"""What averaging over turned and mirrored copies does to each method: paired differences.

    python recipes/averaged.py COMPARISON…

COMPARISON is a folder of `apercu compare` that holds methods plain and with `augmented=N`, see
recipes/augmented.sh and recipes/chest/study.sh. Prints the mean difference of each pair over the
images, its 95 % interval, and ▲ or ▼ where it is no chance (sign-flip test, adjusted for all pairs
of a folder after Holm); then how many of them are better and worse.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

from apercu.evaluation import ComparisonResults
from apercu.evaluation.ranking import (
    SIGNIFICANCE,
    PairedDifference,
    find_direction,
    list_metrics,
)
from apercu.statistics import adjust_holm, bootstrap_interval, sign_flip_test


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("comparisons", type=Path, nargs="+")
    for folder in words.parse_args().comparisons:
        print(f"\n{folder}\n\n{render_table(ComparisonResults.load(folder))}")


def find_pairs(results: ComparisonResults) -> dict[str, str]:
    """Return the plain explainer of each averaged one, by the averaged one's name."""
    plain = {name: re.sub(r"[:,]augmented=\d+$", "", name) for name in results.explainers}
    return {
        name: other
        for name, other in plain.items()
        if name != other and other in results.explainers
    }


def measure_differences(results: ComparisonResults) -> dict[tuple[str, str], PairedDifference]:
    """Measure averaged minus plain, by averaged explainer and metric.

    The p-values of the sign-flip tests are adjusted for all of them after Holm.
    """
    differences, p = {}, {}
    for averaged, plain in find_pairs(results).items():
        for metric in list_metrics(results):
            scores, others = (results.scores[name, metric] for name in (averaged, plain))
            values = np.array([scores[image] - others[image] for image in scores])
            differences[averaged, metric] = values
            p[f"{averaged} {metric}"] = sign_flip_test(values, 0)
    p = adjust_holm(p)
    return {
        (name, metric): PairedDifference(
            values.mean(), bootstrap_interval(values, 0), p[f"{name} {metric}"], len(values)
        )
        for (name, metric), values in differences.items()
    }


def render_table(results: ComparisonResults) -> str:
    """Return a table of Markdown of all pairs, and how many of its cells are better or worse."""
    metrics = list_metrics(results)
    titles = [results.get_metric(metric).title for metric in metrics]
    means = {(row.explainer, row.metric): row.value for row in results.rows}
    measured = measure_differences(results)
    lines = [f"| plain → averaged | {' | '.join(titles)} |", "|---" * (len(metrics) + 1) + "|"]
    better = worse = 0
    for averaged, plain in find_pairs(results).items():
        cells = [averaged]
        for metric in metrics:
            pair = measured[averaged, metric]
            sign = pair.difference * (1 if find_direction(results, metric) == "higher" else -1)
            mark = ""
            if pair.p < SIGNIFICANCE:
                mark = " ▲" if sign > 0 else " ▼"
            better, worse = better + (mark == " ▲"), worse + (mark == " ▼")
            low, high = pair.ci95
            cells.append(
                f"{means[plain, metric]:.3f} → {means[averaged, metric]:.3f}{mark} "
                f"({low:+.3f} to {high:+.3f})"
            )
        lines.append(f"| {' | '.join(cells)} |".replace("-0", "−0"))
    count = len(metrics) * len(find_pairs(results))
    lines += ["", f"Better beyond chance in {better} of {count} cells, worse in {worse}."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
