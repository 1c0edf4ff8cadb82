"""Tables of the trainings of the study: figures with intervals, and paired differences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from chains import list_chains
from tasks import ELSEWHERE, NIH, open_task
from torch import Tensor

from apercu.io import write_file
from apercu.learning.data import LabelledSet
from apercu.learning.measure import MEASURES, Predictions

RESAMPLES = 200


def find_result(out: Path, task: str, share: float, chain: str, seed: int) -> Path:
    """Return the file of one training's result."""
    name = chain.replace(" ", "-").replace(",", "")
    return out / "trainings" / task / f"{share:g}" / name / f"seed-{seed}.json"


def make_table(out: Path, tasks: Sequence[str], shares: Sequence[float], seeds: int) -> None:
    """Write results.json and table.md of all trainings that are finished for every seed."""
    rows, lines = [], []
    for task in tasks:
        if not (out / "trainings" / task).is_dir():
            continue
        test = open_task(task, out)[1]
        for share in shares:
            results: dict[str, list[dict[str, object]]] = {}
            for name in list_chains():
                paths = [find_result(out, task, share, name, seed) for seed in range(seeds)]
                if all(path.is_file() for path in paths):
                    results[name] = [json.loads(path.read_text()) for path in paths]
            if results:
                measured = compare_chains(results, test)
                rows += [
                    {"task": task, "share": share, "chain": name, **facts, **figures}
                    for name, figures in measured.items()
                    for facts in [{"labels": results[name][0]["labels"], "seeds": seeds}]
                ]
                lines += format_table(task, results, measured)
    lines += format_shares(rows, shares)
    write_file(out / "results.json", json.dumps(rows, indent=1) + "\n")
    write_file(out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


REFERENCES = {
    "scratch": "S",
    "small": "K",
    "imagenet": "I",
    "mobilenetv2": "M",
    "pretraining": "P",
}
"""The chains that all others are compared with, and their letters in the table."""
FIGURES = ("auroc", "balanced_accuracy")
TITLES = {
    "ztf-real": "alerts, real or bogus",
    "galaxies": "stars and galaxies",
    "films": "chest films",
    "ztf-star": "alerts, star or galaxy",
    NIH: "films of the NIH",
    ELSEWHERE: "films of the NIH, learnt from others",
}
"""Names of the tasks in the table by share."""


def compare_chains(
    results: dict[str, list[dict[str, object]]], test: LabelledSet
) -> dict[str, dict[str, Any]]:
    """Return the figures of each chain with intervals, and its differences from the references.

    Seeds and objects of the test are resampled together for all chains.
    """
    units: dict[str, list[int]] = {}
    for row, unit in enumerate(test.units):
        units.setdefault(unit, []).append(row)
    members = [np.array(each) for each in units.values()]
    predictions = {
        name: [predict(each["probabilities"], test.targets) for each in runs]
        for name, runs in results.items()
    }
    seeds = len(next(iter(results.values())))
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        rows = np.concatenate(
            [members[i] for i in generator.integers(0, len(members), len(members))]
        )
        draws.append((generator.integers(0, seeds, seeds), rows))
    measured: dict[str, dict[str, Any]] = {name: {} for name in results}
    for figure in FIGURES:
        measure = MEASURES[figure][0]
        resampled = {}
        for name, runs in predictions.items():
            values = [measure(each) for each in runs]
            resampled[name] = np.array(
                [np.mean([measure(runs[i].choose(rows)) for i in drawn]) for drawn, rows in draws]
            )
            low, high = np.percentile(resampled[name], [2.5, 97.5])
            measured[name][figure] = {
                "value": float(np.mean(values)),
                "ci95": [float(low), float(high)],
                "seeds": values,
            }
        for name in results:
            for reference in REFERENCES:
                if reference in results and reference != name:
                    difference = resampled[name] - resampled[reference]
                    low, high = np.percentile(difference, [2.5, 97.5])
                    measured[name][f"{figure} - {reference}"] = [
                        float(difference.mean()),
                        float(low),
                        float(high),
                    ]
    return measured


def predict(probabilities: object, targets: Tensor) -> Predictions:
    """Return stored probabilities as predictions."""
    values = np.array(probabilities)
    predicted = np.eye(values.shape[1])[values.argmax(1)]
    return Predictions(values, predicted, targets.double().numpy(), False)


def format_table(
    task: str,
    results: dict[str, list[dict[str, object]]],
    measured: dict[str, dict[str, Any]],
) -> list[str]:
    """Return the lines of one table."""
    labels = next(iter(results.values()))[0]["labels"]
    lines = [
        "",
        f"{task}, {labels} labels:",
        "",
        "| chain | AUROC | against | balanced accuracy in % | against | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in measured.items():
        cells = [name]
        for figure, factor, digits in (("auroc", 1, 3), ("balanced_accuracy", 100, 1)):
            cells += [format_interval(figures[figure], factor, digits), mark_chain(figures, figure)]
        seconds = np.mean([each["seconds"] for each in results[name]])
        lines.append("| " + " | ".join([*cells, f"{seconds:.1f}"]) + " |")
    return lines


def format_shares(rows: Sequence[dict[str, Any]], shares: Sequence[float]) -> list[str]:
    """Return the lines of a table of the AUROC by share, of chains with several shares."""
    found = {(row["task"], row["chain"], row["share"]): row for row in rows}
    lines = [
        "",
        "AUROC by share of the labels:",
        "",
        "| task, chain | " + " | ".join(f"{100 * share:g} %" for share in sorted(shares)) + " |",
        "|---|" + "---|" * len(shares),
    ]
    for task, name in dict.fromkeys((row["task"], row["chain"]) for row in rows):
        cells = []
        for share in sorted(shares):
            row = found.get((task, name, share))
            if row is None:
                cells.append("–")
                continue
            marks = mark_chain(row, "auroc")
            cells.append(format_interval(row["auroc"], 1, 3) + (f" {marks}" if marks else ""))
        if cells.count("–") < len(cells) - 1:
            lines.append(f"| {TITLES[task]}: {name} | " + " | ".join(cells) + " |")
    return lines


def format_interval(figure: dict[str, Any], factor: float, digits: int) -> str:
    """Return a figure with its interval."""
    low, high = (f"{factor * end:.{digits}f}" for end in figure["ci95"])
    return f"{factor * figure['value']:.{digits}f} ({low} to {high})"


def mark_chain(figures: dict[str, Any], figure: str) -> str:
    """Return the letters of the references from which a chain differs beyond chance."""
    marks = []
    for reference, letter in REFERENCES.items():
        difference = figures.get(f"{figure} - {reference}")
        if difference is not None and difference[1] > 0:
            marks.append(f"{letter}▲")
        elif difference is not None and difference[2] < 0:
            marks.append(f"{letter}▼")
    return " ".join(marks)
