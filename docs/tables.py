"""Prints a comparison as a Markdown table: one line per explainer, one column per metric.

python docs/tables.py runs/compare-mobilenetv2/results.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    metrics = list(dict.fromkeys(row["metric"] for row in results["rows"]))
    cells = {(row["explainer"], row["metric"]): cell(row) for row in results["rows"]}
    about = results["environment"]
    origin = (results["classifier"], about["date"][:10], f"seed {about['seed']}", about["machine"])
    print(", ".join(origin))
    print()
    print("| explainer | " + " | ".join(metrics) + " |")
    print("|---" * (len(metrics) + 1) + "|")
    for name in dict.fromkeys(row["explainer"] for row in results["rows"]):
        print(f"| {name} | " + " | ".join(cells.get((name, m), "") for m in metrics) + " |")


def cell(row: dict[str, Any]) -> str:
    """Value, 95 % interval, and the threshold where one was chosen."""
    low, high = row["ci95"]
    text = f"{row['value']:.3f} ({low:.3f} … {high:.3f})"
    threshold = row.get("threshold")
    return text if threshold is None else f"{text} at {threshold:g}"


if __name__ == "__main__":
    main()
