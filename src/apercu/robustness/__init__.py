"""How fast a classifier breaks, whether a filter or a defence helps, and whether attacks are found.

The names below are imported when they are first used. `run_stress_test`, `train_defence` and
`find_backdoors` do what `apercu stress`, `apercu stress train` and `apercu stress backdoor` do;
`open_detection` and `detect_attacks` do what `apercu stress detect` does, and `measure_unknown` of
`apercu.robustness.unknown` what `apercu stress unknown` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apercu.filters import Filter as Filter
    from apercu.filters import FilterLayer as FilterLayer
    from apercu.filters import parse_filter as parse_filter
    from apercu.robustness.attacks import Attack as Attack
    from apercu.robustness.backdoors.scan import find_backdoors as find_backdoors
    from apercu.robustness.defences.settings import DefenceSettings as DefenceSettings
    from apercu.robustness.defences.train import train_defence as train_defence
    from apercu.robustness.defences.training import DefendedClassifier as DefendedClassifier
    from apercu.robustness.detection.benchmark import DetectionBenchmark as DetectionBenchmark
    from apercu.robustness.detection.detect import detect_attacks as detect_attacks
    from apercu.robustness.detection.detect import open_detection as open_detection
    from apercu.robustness.detection.features import parse_detectors as parse_detectors
    from apercu.robustness.detection.features import parse_extractors as parse_extractors
    from apercu.robustness.jobs import expand_budgets as expand_budgets
    from apercu.robustness.plan import StressPlan as StressPlan
    from apercu.robustness.plan import parse_attack as parse_attack
    from apercu.robustness.plan import read_stress_settings as read_stress_settings
    from apercu.robustness.results import StressResults as StressResults
    from apercu.robustness.stress import run_stress_test as run_stress_test

_HOMES = {
    "Attack": ".attacks",
    "DefendedClassifier": ".defences.training",
    "DefenceSettings": ".defences.settings",
    "DetectionBenchmark": ".detection.benchmark",
    "Filter": "apercu.filters",
    "FilterLayer": "apercu.filters",
    "StressPlan": ".plan",
    "StressResults": ".results",
    "detect_attacks": ".detection.detect",
    "expand_budgets": ".jobs",
    "find_backdoors": ".backdoors.scan",
    "open_detection": ".detection.detect",
    "parse_attack": ".plan",
    "parse_detectors": ".detection.features",
    "parse_extractors": ".detection.features",
    "parse_filter": "apercu.filters",
    "read_stress_settings": ".plan",
    "run_stress_test": ".stress",
    "train_defence": ".defences.train",
}
"""The module of each public name."""

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'apercu.robustness' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], "apercu.robustness"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
