"""Prints the table of `recipes/cifar10/unknown.sh` beside the numbers of the paper, as Markdown.

python recipes/cifar10/unknown_table.py runs/cifar10-unknown/table/results.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

COLUMNS = {
    "accuracy": "accuracy",
    "success_auroc": "AUROC right/wrong",
    "calibration_error": "ECE",
    "auroc": "AUROC",
    "aupr_in": "AUPR-in",
    "aupr_out": "AUPR-out",
    "fpr95": "FPR95",
}
PAPER = {
    "max_softmax": (82.42, 83.29, 11.34, 72.52, 30.52, 96.10, 87.68),
    "entropy": (82.42, 83.41, 11.34, 72.85, 30.43, 96.21, 85.41),
    "monte_carlo_dropout": (85.08, 83.91, 9.90, 77.56, 38.75, 96.85, 82.35),
    "deep_ensemble": (85.43, 85.29, 3.10, 74.24, 32.81, 96.43, 85.07),
    "conditional_generator": (87.26, 84.71, 10.35, 86.49, 49.08, 98.72, 45.78),
}
"""Oberdiek et al. 2022, in %: what the paper has of the same methods, on its own unknown images."""
NEAR = "unknown"


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("results", type=Path)
    content = json.loads(words.parse_args().results.read_text(encoding="utf-8"))
    cells = {(row["method"], row["images"], row["metric"]): row for row in content["rows"]}
    methods = list(dict.fromkeys(row["method"] for row in content["rows"]))
    kinds = list(dict.fromkeys(row["images"] for row in content["rows"]))
    kinds.remove("known")
    print_row("method", *COLUMNS.values())
    print_row(*["---"] * (len(COLUMNS) + 1))
    for method in methods:
        paper = PAPER.get(method.partition(":")[0], (None,) * len(COLUMNS))
        values = []
        for metric, theirs in zip(COLUMNS, paper, strict=True):
            row = cells.get((method, "known", metric), cells.get((method, NEAR, metric)))
            values.append(format_value(row) + ("" if theirs is None else f" ({theirs:.1f})"))
        print_row(f"`{method}`", *values)
    print()
    print_row("method", *(f"AUROC, {kind}" for kind in kinds), "false alarms", "detected, near")
    print_row(*["---"] * (len(kinds) + 3))
    for method in methods:
        near = cells.get((method, NEAR, "detected"))
        alarms = cells.get((method, "known", "false_alarms"))
        areas = (format_value(cells.get((method, kind, "auroc")), ends=True) for kind in kinds)
        print_row(f"`{method}`", *areas, format_value(alarms), format_value(near))


def format_value(row: dict[str, Any] | None, *, ends: bool = False) -> str:
    """Return a value in %, with or without its interval; `–` where there is none."""
    if row is None:
        return "–"
    low, high = row["ci95"]
    text = f"{100 * row['value']:.1f}"
    return f"{text} ({100 * low:.1f} to {100 * high:.1f})" if ends else text


def print_row(*cells: str) -> None:
    """Print one row of a table."""
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
