"""The page on sizing says what its figures give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "sizing.py"


def run_sizing(*words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return [line for line in done.stdout.splitlines() if line]


def test_the_page_holds_what_its_figures_give() -> None:
    page = (ROOT / "docs" / "reference" / "sizing.md").read_text(encoding="utf-8")
    for line in run_sizing():
        assert line in page


def test_the_tables_follow_the_formulae(tmp_path) -> None:
    figures = {
        **{"processor": "P", "explainer": "E", "images": 9, "rate": 20.0, "cores": 2.0},
        "row": {"png": 1000.0},
    }
    (tmp_path / "m.json").write_text(json.dumps(figures))
    lines = run_sizing(
        *("--measured", str(tmp_path / "m.json"), "--plan", "1000000", "--machine", "box=4"),
        *("--euro-per-core-hour", "0.5", "--rate", "G=1000,3", "--euro-per-terabyte-month", "9"),
    )
    box, gpu = lines[3], lines[4]
    # 4 cores of 10 images a second: a million in 6.94 hours, and 5 % more, at 2 euros
    assert box == "| box | 2.00 | 144,000 | 72,000 | 0 | 1 | 15 |"
    assert gpu == "| G | 3.00 | 3,600,000 | 1,200,000 | 0 | 1 | 1 |"
    assert lines[5] == "100 shards of 10,000 images"
    assert lines[-1] == "| png | 1,000 | 0.0 | 0 | 0.01 |"


def test_the_measured_figures_are_kept(tiny_run, tmp_path) -> None:
    words = ("--run", str(tiny_run), "--images", "planted:size=32,images=20,classes=3")
    run_sizing(*words, "--out", str(tmp_path / "m.json"))
    kept = json.loads((tmp_path / "m.json").read_text())
    assert kept["images"] == 20
    assert 0 < kept["row"]["uint8"] < kept["row"]["float16"]
    assert kept["rate"] > 0
    assert kept["cores"] > 0
