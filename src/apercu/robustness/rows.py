"""What a stress test found, as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from apercu.io import write_json

RESULTS = "results.json"


@dataclass(frozen=True)
class StressRow:
    """One measured value: the mean over n images, with its 95 % interval.

    Intervals of shares are Wilson's, the others bootstrapped. Besides `top1`, `top5` and `auac`,
    all rows are of images that were right behind this filter before the attack.

    Attributes:
        epsilon: budget, in units of the range of a pixel; None where there is none, or several.
        metric: `top1`, `top5`: accuracy. `success`: share of the images that are wrong now.
            `stayed`: for an attack on the map, share of those whose class stayed. `auac`: area
            under the accuracy-perturbation curve. `norm`: size of the change. `queries`,
            `queries_median`: decisions that were asked for. `map_rank_correlation`, `map_iou`: of
            the maps before and after, for an attack on the map where the class stayed.
    """

    attack: str
    epsilon: float | None
    filter: str
    knowledge: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    better: str


@dataclass(frozen=True)
class AccuracyCurve:
    """Accuracy against the mean size of the change that was reached, the first 0, in a norm.

    For an attack without budgets the share of images that need a larger change than each size.
    """

    attack: str
    filter: str
    knowledge: str
    norm: str
    sizes: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class StressResults:
    """All that a stress test found."""

    about: Mapping[str, Any]
    rows: tuple[StressRow, ...]
    curves: tuple[AccuracyCurve, ...] = ()
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes `results.json`; raises `OutputError`."""
        content = {
            **self.about,
            "rows": [asdict(row) for row in self.rows],
            "curves": [asdict(curve) for curve in self.curves],
            "warnings": list(self.warnings),
            "environment": dict(self.environment),
        }
        write_json(folder / RESULTS, content)
