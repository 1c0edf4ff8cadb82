"""What a comparison found: rows, costs, and each image's score; as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from apercu.errors import RunError
from apercu.io import write_file, write_json

RESULTS_FILE, SCORES_FILE = "results.json", "scores.csv"
FIXED_THRESHOLD = 0.5
"""Where a mask is cut when no threshold is chosen for it."""


def fixed_threshold_name(explainer: str) -> str:
    """The name of an explainer's row at the fixed threshold.

    >>> variant("mask"), variant("mask:area=2")
    ('mask:threshold=0.5', 'mask:area=2,threshold=0.5')
    """
    return f"{explainer}{',' if ':' in explainer else ':'}threshold={FIXED_THRESHOLD}"


def is_fixed_threshold(explainer: str) -> bool:
    """Whether a row is an explainer's second one, at the fixed threshold."""
    return explainer.endswith(f"threshold={FIXED_THRESHOLD}")


@dataclass(frozen=True)
class MetricRow:
    """One measured value: the mean over n images, with a bootstrapped 95 % interval."""

    explainer: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    better: str
    threshold: float | None = None
    threshold_from: str | None = None


@dataclass(frozen=True)
class Cost:
    """What one image costs in batches of one size.

    Attributes:
        ms_per_image: median time.
        iqr: interquartile range of that time, in ms; None of a single call.
        classifier_forwards: that time over the time of one classifier forward of the same batch.
        training_seconds: spent once, before the first image.
        queries: answers asked of the classifier, per image.
        peak_mb: memory that one call takes on top of what was there, in MB; None where it cannot
            be told.
    """

    explainer: str
    device: str
    batch: int
    ms_per_image: float
    iqr: float | None
    classifier_forwards: float
    training_seconds: float
    queries: float
    peak_mb: float | None


@dataclass(frozen=True)
class ComparisonKey:
    """What was measured; rows belong together only when this is equal."""

    classifier: str
    fingerprint: str
    images: str
    limit: int
    """Images used, both halves together."""
    targets: str
    """`labels` of the images, or the classifier's `top` class."""
    sample: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Invocation:
    """One call that measured something: what was typed, where it ran, and what it finished."""

    command: str
    environment: Mapping[str, Any]
    explainers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComparisonResults:
    """All rows of a comparison. `scores` maps (explainer, metric) to a value per image name."""

    key: ComparisonKey
    environment: Mapping[str, Any]
    explainers: Mapping[str, str] = field(default_factory=dict)
    """Name of each finished explainer and its identity."""
    rows: tuple[MetricRow, ...] = ()
    cost: tuple[Cost, ...] = ()
    scores: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict, repr=False)
    failed: Mapping[str, str] = field(default_factory=dict)
    """Name of each explainer that could not be measured, and why."""
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of each finished explainer and what it takes, see `apercu.methods.Need`."""
    curves: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict, repr=False)
    """By explainer: mean probabilities of `deletion` and `insertion`, at equal shares of pixels."""
    calls: tuple[Invocation, ...] = ()
    """All calls that the rows come from, the first one first."""

    def save(self, folder: Path) -> None:
        """Write `scores.csv`, then `results.json`; raises `OutputError`."""
        write_file(folder / SCORES_FILE, _format_scores(self.scores))
        write_json(folder / RESULTS_FILE, self.to_json())

    def rename(self, identities: Mapping[str, str]) -> ComparisonResults:
        """The same, with what has one of these identities under the name that it has here."""
        new = {
            next(old for old, known in self.explainers.items() if known == identity): name
            for name, identity in identities.items()
            if name not in self.explainers
            and identity in self.explainers.values()
            and identity not in {identities.get(old) for old in self.explainers}
        }

        def of(name: str) -> str:
            plain = next((old for old in new if name == fixed_threshold_name(old)), None)
            return new.get(name, name) if plain is None else fixed_threshold_name(new[plain])

        return replace(
            self,
            explainers={of(name): one for name, one in self.explainers.items()},
            rows=tuple(replace(row, explainer=of(row.explainer)) for row in self.rows),
            cost=tuple(replace(cost, explainer=of(cost.explainer)) for cost in self.cost),
            scores={(of(name), metric): one for (name, metric), one in self.scores.items()},
            needs={of(name): words for name, words in self.needs.items()},
            curves={of(name): made for name, made in self.curves.items()},
            calls=tuple(
                replace(call, explainers=tuple(map(of, call.explainers))) for call in self.calls
            ),
        )

    def select(self, identities: Mapping[str, str]) -> ComparisonResults:
        """What is here of these explainers (name and identity), in their order."""
        mine = {
            name: [r for r in self.rows if r.explainer in _list_row_names(name)]
            for name in identities
        }
        kept = [
            name
            for name, identity in identities.items()
            if self.explainers.get(name) == identity
            and all((row.explainer, row.metric) in self.scores for row in mine[name])
        ]
        rows = [row for name in kept for row in mine[name]]
        return replace(
            self,
            explainers={name: self.explainers[name] for name in kept},
            rows=tuple(rows),
            cost=tuple(one for name in kept for one in self.cost if one.explainer == name),
            scores={(r.explainer, r.metric): self.scores[r.explainer, r.metric] for r in rows},
            needs={name: self.needs[name] for name in kept},
            curves={name: self.curves[name] for name in kept if name in self.curves},
            calls=_select_invocations(self.calls, kept),
        )

    def to_json(self) -> dict[str, Any]:
        """The content of `results.json`; thresholds appear only in rows that have one."""
        return {
            **asdict(self.key),
            "rows": [
                {key: value for key, value in asdict(row).items() if value is not None}
                for row in self.rows
            ],
            "cost": [asdict(cost) for cost in self.cost],
            "explainers": dict(self.explainers),
            "needs": dict(self.needs),
            "curves": dict(self.curves),
            "failed": dict(self.failed),
            "environment": dict(self.environment),
            "calls": [asdict(call) for call in self.calls],
        }

    @staticmethod
    def load(folder: Path) -> ComparisonResults:
        """Read what `save` wrote.

        Raises:
            RunError: the files are missing, damaged, or of another kind.
        """
        try:
            found = json.loads((folder / RESULTS_FILE).read_text())
            return ComparisonResults(
                key=ComparisonKey(
                    **{name: found[name] for name in ComparisonKey.__dataclass_fields__}
                ),
                environment=found["environment"],
                explainers=found["explainers"],
                failed=found["failed"],
                needs={name: tuple(words) for name, words in found["needs"].items()},
                curves={
                    name: {kind: tuple(points) for kind, points in curves.items()}
                    for name, curves in found["curves"].items()
                },
                rows=tuple(
                    MetricRow(**{**row, "ci95": tuple(row["ci95"])}) for row in found["rows"]
                ),
                cost=tuple(Cost(**cost) for cost in found["cost"]),
                scores=_parse_scores((folder / SCORES_FILE).read_text()),
                calls=tuple(
                    Invocation(**{**call, "explainers": tuple(call["explainers"])})
                    for call in found["calls"]
                ),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{folder / RESULTS_FILE}: cannot be read as results ({error}); "
                "choose the folder of a comparison, or a new one"
            ) from error


def _select_invocations(calls: Sequence[Invocation], kept: Sequence[str]) -> tuple[Invocation, ...]:
    """The calls that some kept rows come from, with what they finished of those."""
    found = [
        replace(call, explainers=tuple(n for n in call.explainers if n in kept)) for call in calls
    ]
    return tuple(call for call in found if call.explainers)


def _list_row_names(explainer: str) -> tuple[str, str]:
    return explainer, fixed_threshold_name(explainer)


def _format_scores(scores: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(("explainer", "metric", "image", "value"))
    for (explainer, metric), values in scores.items():
        table.writerows((explainer, metric, image, repr(value)) for image, value in values.items())
    return buffer.getvalue()


def _parse_scores(text: str) -> dict[tuple[str, str], dict[str, float]]:
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for line in csv.DictReader(io.StringIO(text)):
        values = scores.setdefault((line["explainer"], line["metric"]), {})
        values[line["image"]] = float(line["value"])
    return scores
