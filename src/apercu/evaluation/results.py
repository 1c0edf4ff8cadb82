"""The results of a comparison: rows, costs, and each image's score; as JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from apercu.errors import ConfigError, RunError, shorten
from apercu.io import format_csv_rows, parse_json, unescape_cell, write_file, write_json
from apercu.metrics import MetricRecord
from apercu.metrics.registry import METRICS

if TYPE_CHECKING:
    from apercu.evaluation.ranking import RankingRow

RESULTS_FILE, SCORES_FILE = "results.json", "scores.csv"
_SCORE_NAMES = ("explainer", "metric", "image")
FIXED_THRESHOLD = 0.5
"""Where a mask is cut when no threshold is chosen for it."""


@dataclass(frozen=True)
class MetricRow:
    """One measured value: the mean over n images, with a bootstrapped 95 % interval.

    Attributes:
        explainer: the name of the explainer.
        metric: the name of the metric.
        value: the mean.
        ci95: the ends of the interval.
        n: the number of images.
        better: `lower` or `higher`.
        threshold: where maps are cut, for a metric of regions.
        threshold_from: where that threshold comes from.
        other_threshold: threshold of the other half of the images, with two folds.
    """

    explainer: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    better: str
    threshold: float | None = None
    threshold_from: str | None = None
    other_threshold: float | None = None


@dataclass(frozen=True)
class Cost:
    """The cost of one image in batches of one size.

    Attributes:
        explainer: the name of the explainer.
        device: the device, `cpu` or `cuda`.
        batch: the number of images in a batch.
        ms_per_image: the median time.
        iqr: the interquartile range of that time, in ms; None of a single call.
        classifier_forwards: that time divided by the time of one classifier forward of the same
            batch.
        training_seconds: the time that is spent once, before the first image.
        queries: the number of images that the classifier computes per explained image.
        peak_mb: the memory that one call takes on top of what was there, in MB; None where it is
            unknown.
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
    """What is measured; rows belong together only when their keys are equal.

    Attributes:
        classifier: the classifier's name.
        fingerprint: the digest of its weights.
        images: the name of the source.
        limit: the number of images, both halves together.
        targets: `labels` for the images' labels, `top` for the classifier's top class.
        sample: the digest of the images.
        settings: the settings of the comparison.
    """

    classifier: str
    fingerprint: str
    images: str
    limit: int
    targets: str
    sample: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Invocation:
    """One call that measured something.

    Attributes:
        command: the command as it was typed.
        environment: the machine, the versions and the seed.
        explainers: the explainers that this call finished.
    """

    command: str
    environment: Mapping[str, Any]
    explainers: tuple[str, ...] = ()


class _StoredResults(BaseModel):
    """What `results.json` holds besides the key."""

    model_config = ConfigDict(allow_inf_nan=False)
    environment: dict[str, Any]
    explainers: dict[str, str]
    rows: tuple[MetricRow, ...]
    cost: tuple[Cost, ...]
    failed: dict[str, str]
    needs: dict[str, tuple[str, ...]]
    curves: dict[str, dict[str, tuple[float, ...]]]
    calls: tuple[Invocation, ...]
    constant: dict[str, int] = {}
    own_metrics: dict[str, MetricRecord] = {}
    against: str | None = None


@dataclass(frozen=True)
class ComparisonResults:
    """All rows of a comparison, in a notebook a table.

    Attributes:
        key: what is measured.
        environment: the machine, the versions and the seed of the last call.
        explainers: the cache key of each finished explainer by its name.
        rows: the measured values.
        cost: the measured costs.
        scores: a value per image name, by explainer and metric.
        failed: the reason why an explainer could not be measured, by its name.
        needs: what each finished explainer needs, see `apercu.methods.Requirement`.
        curves: the mean probabilities of `deletion` and `insertion` at equal fractions of pixels,
            by explainer.
        calls: all calls that the rows come from, the first one first.
        constant: how many of the maps are constant, so that they show nothing, by explainer.
        own_metrics: the records of the metrics from outside the package, by name.
        against: the explainer that the others are to be compared with, where one was named.
    """

    key: ComparisonKey
    environment: Mapping[str, Any]
    explainers: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[MetricRow, ...] = ()
    cost: tuple[Cost, ...] = ()
    scores: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict, repr=False)
    failed: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict, repr=False)
    calls: tuple[Invocation, ...] = ()
    constant: Mapping[str, int] = field(default_factory=dict)
    own_metrics: Mapping[str, MetricRecord] = field(default_factory=dict)
    against: str | None = None

    def get_metric(self, name: str) -> MetricRecord:
        """Return how people read a metric of these results, own ones included."""
        return self.own_metrics.get(name) or METRICS[name]

    def table(self) -> list[RankingRow]:
        """Return the ranking: one row per explainer, best first, with the texts of its values."""
        from apercu.evaluation.ranking import build_ranking

        return build_ranking(self)

    def to_markdown(self) -> str:
        """Return the ranking and the costs as Markdown."""
        from apercu.evaluation.report.tables import format_markdown

        return format_markdown(self)

    def __str__(self) -> str:
        """Return the ranking as plain text, and which explainer is first."""
        from apercu.evaluation.report.tables import format_text

        return format_text(self)

    def __repr__(self) -> str:
        return f"ComparisonResults({self.key.classifier}, {len(self.rows)} rows)"

    def _repr_html_(self) -> str:
        """Return the ranking as a table for notebooks."""
        from apercu.evaluation.report.tables import format_html

        return format_html(self)

    def save(self, folder: str | Path) -> None:
        """Write `scores.csv`, then `results.json`.

        Raises:
            OutputError: the folder cannot be written.
        """
        write_file(Path(folder) / SCORES_FILE, _format_scores(self.scores))
        write_json(Path(folder) / RESULTS_FILE, self.to_json())

    @staticmethod
    def load(folder: str | Path) -> ComparisonResults:
        """Read what `save` wrote.

        Raises:
            RunError: the files are missing, damaged, or of another kind.
        """
        path = Path(folder) / RESULTS_FILE
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
            stored = _StoredResults.model_validate(content)
            results = ComparisonResults(
                key=TypeAdapter(ComparisonKey).validate_python(content),
                scores=_parse_scores((Path(folder) / SCORES_FILE).read_text(encoding="utf-8")),
                **dict(stored),
            )
            _check_consistency(results)
        except (OSError, ValueError, KeyError, TypeError, ConfigError, csv.Error) as error:
            raise RunError(
                f"{path}: cannot be read as results ({_describe_damage(error)}); "
                "choose the folder of a comparison, or a new one"
            ) from error
        return results

    def to_json(self) -> dict[str, Any]:
        """Return the content of `results.json`; thresholds appear only in rows that have one."""
        own = {name: asdict(metric) for name, metric in self.own_metrics.items()}
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
            **({"constant": dict(self.constant)} if self.constant else {}),
            **({"against": self.against} if self.against else {}),
            **({"own_metrics": own} if own else {}),
        }

    def rename(self, cache_keys: Mapping[str, str]) -> ComparisonResults:
        """Return the same results under new names.

        Args:
            cache_keys: the cache keys by the new names; an explainer here that has one of them gets
                its name.

        Returns:
            The renamed results; explainers with other cache keys keep their names.
        """
        new_names = {
            next(old for old, key in self.explainers.items() if key == cache_key): name
            for name, cache_key in cache_keys.items()
            if name not in self.explainers
            and cache_key in self.explainers.values()
            and cache_key not in {cache_keys.get(old) for old in self.explainers}
        }

        def find_name(name: str) -> str:
            plain = next((old for old in new_names if name == name_at_fixed_threshold(old)), None)
            if plain is not None:
                return name_at_fixed_threshold(new_names[plain])
            return new_names.get(name, name)

        return replace(
            self,
            explainers={find_name(name): key for name, key in self.explainers.items()},
            rows=tuple(replace(row, explainer=find_name(row.explainer)) for row in self.rows),
            cost=tuple(replace(cost, explainer=find_name(cost.explainer)) for cost in self.cost),
            scores={
                (find_name(name), metric): values for (name, metric), values in self.scores.items()
            },
            needs={find_name(name): needs for name, needs in self.needs.items()},
            curves={find_name(name): curves for name, curves in self.curves.items()},
            constant={find_name(name): count for name, count in self.constant.items()},
            against=None if self.against is None else find_name(self.against),
            calls=tuple(
                replace(call, explainers=tuple(map(find_name, call.explainers)))
                for call in self.calls
            ),
        )

    def select(self, cache_keys: Mapping[str, str]) -> ComparisonResults:
        """Return the results of some explainers, by name and cache key, in their order."""
        rows_of = {
            name: [row for row in self.rows if row.explainer in _list_row_names(name)]
            for name in cache_keys
        }
        kept = [
            name
            for name, cache_key in cache_keys.items()
            if self.explainers.get(name) == cache_key
            and all((row.explainer, row.metric) in self.scores for row in rows_of[name])
        ]
        rows = [row for name in kept for row in rows_of[name]]
        return replace(
            self,
            explainers={name: self.explainers[name] for name in kept},
            rows=tuple(rows),
            cost=tuple(cost for name in kept for cost in self.cost if cost.explainer == name),
            scores={(r.explainer, r.metric): self.scores[r.explainer, r.metric] for r in rows},
            needs={name: self.needs[name] for name in kept},
            curves={name: self.curves[name] for name in kept if name in self.curves},
            constant={name: self.constant[name] for name in kept if name in self.constant},
            calls=_select_invocations(self.calls, kept),
        )


def name_at_fixed_threshold(explainer: str) -> str:
    """Return the name of an explainer's row at the fixed threshold.

    >>> name_at_fixed_threshold("mask"), name_at_fixed_threshold("mask:area=2")
    ('mask:threshold=0.5', 'mask:area=2,threshold=0.5')
    """
    return f"{explainer}{',' if ':' in explainer else ':'}threshold={FIXED_THRESHOLD}"


def is_fixed_threshold(explainer: str) -> bool:
    """Whether a row is an explainer's second one, at the fixed threshold."""
    return explainer.endswith(f"threshold={FIXED_THRESHOLD}")


def _select_invocations(calls: Sequence[Invocation], kept: Sequence[str]) -> tuple[Invocation, ...]:
    """Return the calls that some rows come from, each with the explainers of these rows."""
    selected = [
        replace(call, explainers=tuple(name for name in call.explainers if name in kept))
        for call in calls
    ]
    return tuple(call for call in selected if call.explainers)


def _list_row_names(explainer: str) -> tuple[str, str]:
    return explainer, name_at_fixed_threshold(explainer)


def _check_consistency(results: ComparisonResults) -> None:
    """Raise ValueError where the parts of stored results do not fit each other."""
    names = {row for name in results.explainers for row in _list_row_names(name)}
    keys = [(row.explainer, row.metric) for row in results.rows]
    if len(set(keys)) < len(keys):
        raise ValueError("two rows have the same explainer and metric")
    for row in results.rows:
        what = f"row {shorten(row.explainer)}, {shorten(row.metric)}"
        if row.explainer not in names or row.metric not in {*METRICS, *results.own_metrics}:
            raise ValueError(f"{what}: no such explainer or metric")
        if row.better not in ("lower", "higher"):
            raise ValueError(f"{what}: better is {shorten(row.better)}")
        scores = results.scores.get((row.explainer, row.metric), {})
        if len(scores) != row.n or not all(map(isfinite, (row.value, *row.ci95))):
            raise ValueError(f"{what}: {len(scores)} scores of {row.n} images")
    if missing := [name for name in results.explainers if name not in results.needs]:
        raise ValueError(f"needs of {shorten(missing[0])} are missing")
    if unknown := [name for name in results.constant if name not in results.explainers]:
        raise ValueError(f"constant: no such explainer as {shorten(unknown[0])}")


def _describe_damage(error: Exception) -> str:
    """Return what is wrong with stored results, in a few words."""
    if isinstance(error, ValidationError):
        mistake = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in mistake["loc"])
        return f"{shorten(where)}: {mistake['msg']}"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return shorten(str(error), 200).strip("'\"")


def _format_scores(scores: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    rows: list[tuple[str | float, ...]] = [("explainer", "metric", "image", "value")]
    for (explainer, metric), values in scores.items():
        rows += [(explainer, metric, image, float(value)) for image, value in values.items()]
    return format_csv_rows(rows)


def _parse_scores(text: str) -> dict[tuple[str, str], dict[str, float]]:
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for line in csv.DictReader(io.StringIO(text), restval=""):
        explainer, metric, image = (unescape_cell(line[name]) for name in _SCORE_NAMES)
        scores.setdefault((explainer, metric), {})[image] = float(line["value"])
    return scores
