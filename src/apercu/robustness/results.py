"""The results of a stress test as they are stored, and what earlier calls left in such files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float
from pydantic import TypeAdapter

from apercu.errors import RunError
from apercu.filters import NONE
from apercu.io import parse_json, write_json
from apercu.log import warn
from apercu.robustness.curves import AccuracyCurve, compute_curves
from apercu.robustness.false_security import find_false_security
from apercu.robustness.jobs import KNOWLEDGE, AttackResult, Job, describe_attack
from apercu.run_record import RunRecord
from apercu.statistics import bootstrap_interval, median_interval, wilson_interval

R = TypeVar("R")

RESULTS = "results.json"
FRACTION_METRICS = ("top1", "top5", "success", "stayed")
"""Metrics that are fractions of images."""
LOWER_IS_BETTER = ("success",)
"""Metrics of which a lower value is better."""


@dataclass(frozen=True)
class StressRow:
    """One measured value: the mean over n images, with its 95 % interval.

    Intervals of fractions are Wilson's, the others are bootstrapped. Except `top1`, `top5` and
    `auac`, all rows are about images that were correct behind this filter before the attack.

    Attributes:
        attack: name of the attack; `none` for the clean images.
        epsilon: budget, in units of the range of a pixel; None where there is none, or several.
        filter: name of the filter behind which the classifier was tested.
        knowledge: `naive`, `adaptive` or `transfer`.
        metric: `top1`, `top5`: accuracy. `success`: fraction of the images that are wrong now.
            `stayed`: for an attack on the map, fraction of those whose class stayed. `auac`: area
            under the accuracy-perturbation curve. `norm`: size of the change. `queries`,
            `queries_median`: number of queries. `map_rank_correlation`, `map_iou`: similarity of
            the maps before and after, for an attack on the map where the class stayed.
        value: mean, or median for `queries_median`.
        ci95: both ends of the interval.
        n: number of images.
        better: `higher` or `lower`.
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

    @property
    def count(self) -> int:
        """How many images a fraction stands for."""
        return round(self.value * self.n)


@dataclass(frozen=True)
class StressResults:
    """All results of a stress test; in a notebook what was found, and a table.

    Args:
        about: what was tested: classifier, images, plan, command.
        rows: measured values.
        curves: accuracy curves.
        warnings: warnings of false security.
        environment: versions and machine.
    """

    about: Mapping[str, Any]
    rows: tuple[StressRow, ...]
    curves: tuple[AccuracyCurve, ...] = ()
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> None:
        """Write `results.json`; raises `OutputError`."""
        content = {
            **self.about,
            "rows": [asdict(row) for row in self.rows],
            "curves": [asdict(curve) for curve in self.curves],
            "warnings": list(self.warnings),
            "environment": dict(self.environment),
        }
        write_json(Path(folder) / RESULTS, content)

    def table(self) -> list[tuple[str, ...]]:
        """Return the fractions of images that are right, as texts.

        Returns:
            The heads, `right images` and each filter; then a row per attack, budget and knowledge.
        """
        rows = [row for row in self.rows if row.metric == "top1"]
        cells = {(_name_attack(row), row.filter): format_percent(row) for row in rows}
        filters = tuple(dict.fromkeys(row.filter for row in rows))
        return [("right images", *map(format_filter, filters))] + [
            (attack, *(cells.get((attack, name), "") for name in filters))
            for attack in dict.fromkeys(map(_name_attack, rows))
        ]

    def _repr_html_(self) -> str:
        """Return what was found and the table, for notebooks."""
        from apercu.pages import render_output
        from apercu.robustness.report import write_finding

        found, (heads, *cells) = write_finding(self), self.table()
        lines = (found.headline, found.certainty)
        return render_output(lines, header=heads, cells=cells, notes=self._notes)

    def __str__(self) -> str:
        """Return what was found and the table as plain text."""
        from apercu.robustness.report import write_finding

        lines = ["  ".join(filter(None, texts)) for texts in self.table()]
        return "\n".join([str(write_finding(self)), *lines, *self._notes])

    @property
    def _notes(self) -> list[str]:
        """What is said below the table, in one line each."""
        return [*map(format_warning, self.warnings), *filter(None, [self.guard_note])]

    @property
    def guard_note(self) -> str:
        """What a person should know of the guard that the card names, in one line; else empty."""
        if "guard" not in self.about:
            return ""
        return (
            "the guard that the card names plays no part here; apercu guard measure says how many "
            "attacked images raise its alarm"
        )

    def __repr__(self) -> str:
        return f"StressResults({self.about.get('classifier')}, {len(self.rows)} rows)"


def _name_attack(row: StressRow) -> str:
    """Return the attack of a row, and what the attacker knows where it is not nothing."""
    plain = row.attack == NONE or row.knowledge == "naive"
    return format_attack(row) + ("" if plain else f", {KNOWLEDGE[row.knowledge]}")


def format_percent(row: StressRow) -> str:
    """Format a value with its interval, in %.

    >>> key = "pgd", None, "none", "naive", "top1"
    >>> format_percent(StressRow(*key, 0.5, (0.4, 0.6), 10, "higher"))
    '50.0\xa0% (40.0 to 60.0)'
    """
    low, high = (100 * end for end in row.ci95)
    return f"{100 * row.value:.1f}\xa0% ({low:.1f} to {high:.1f})"


def format_attack(row: StressRow) -> str:
    """Format the attack of a row with its budget.

    >>> row = StressRow("pgd", 8 / 255, "none", "naive", "top1", 0.5, (0.0, 1.0), 9, "higher")
    >>> format_attack(row)
    'pgd at 8/255'
    """
    if row.attack == NONE:
        return "no attack"
    return describe_attack(row.attack, row.epsilon)


def format_situation(row: StressRow) -> str:
    """Format the filter of a row, and what the attacker knows of it.

    >>> row = StressRow("pgd", None, "jpeg", "adaptive", "top1", 0.5, (0.0, 1.0), 9, "higher")
    >>> format_situation(row)
    'behind jpeg; attacker knows the filter'
    """
    parts = [] if row.filter == NONE else [f"behind {row.filter}"]
    parts += [] if row.filter == NONE and row.knowledge == "naive" else [KNOWLEDGE[row.knowledge]]
    return "; ".join(parts) or "no filter"


def format_warning(line: str) -> str:
    """Format a stored warning in plain words; files keep the shorter ones of version 0.1.0.

    >>> format_warning("behind jpeg pgd (adaptive) flatters: it leaves 80.0% right, fgsm 9.0%")
    'behind jpeg pgd (attacker knows the filter) is too weak: it leaves 80.0% right, fgsm 9.0%'
    """
    for knowledge, words in KNOWLEDGE.items():
        is_bare = knowledge == "naive" and not line.startswith("behind ")
        line = line.replace(f" ({knowledge})", "" if is_bare else f" ({words})")
    return line.replace(" flatters: ", " is too weak: ").replace(" wins only ", " helps only ")


def format_filter(name: str) -> str:
    """Format the name of a filter.

    >>> format_filter("none"), format_filter("jpeg")
    ('no filter', 'jpeg')
    """
    return "no filter" if name == NONE else name


def format_curve(curve: AccuracyCurve) -> str:
    """Format the filter of a curve, and what the attacker knows if that says more.

    >>> format_curve(AccuracyCurve("pgd", "jpeg", "adaptive", "linf", (0.0,), (1.0,)))
    'jpeg, attacker knows the filter'
    """
    filter_name = format_filter(curve.filter)
    is_bare = curve.filter == NONE and curve.knowledge == "naive"
    return filter_name if is_bare else f"{filter_name}, {KNOWLEDGE[curve.knowledge]}"


def summarise(
    results: Mapping[Job, AttackResult],
    about: Mapping[str, Any],
    environment: Mapping[str, Any],
    seed: int,
) -> StressResults:
    """Summarise the results of all jobs as rows, curves and warnings.

    Args:
        results: result of every job; one of them is for the clean images.
        about: what was tested, stored as it is.
        environment: versions and machine, stored as they are.
        seed: seed of the bootstrap.

    Returns:
        The results as they are stored.
    """
    clean = next(result for job, result in results.items() if job.name == NONE)
    rows: list[StressRow] = []
    for job, result in results.items():
        for name in result.top1:
            for metric, values in _measure_job(job, result, clean, name):
                rows.append(_make_row(job, name, metric, values, seed))
    curves = compute_curves(results, clean)
    for curve, areas in curves:
        area, interval = float(areas.mean()), bootstrap_interval(areas, seed)
        key = curve.attack, None, curve.filter, curve.knowledge, "auac"
        rows.append(StressRow(*key, area, interval, len(areas), "higher"))
    warnings = tuple(find_false_security(results))
    return StressResults(
        about, tuple(rows), tuple(curve for curve, _ in curves), warnings, environment
    )


def _measure_job(
    job: Job, result: AttackResult, clean: AttackResult, filter_name: str
) -> Iterator[tuple[str, Float[np.ndarray, " images"]]]:
    """Yield every metric of a job behind a filter that has images, with its values."""
    yield "top1", result.measure_correctness(filter_name)
    yield "top5", result.measure_correctness(filter_name, "top5")
    before = clean.measure_correctness(filter_name) > 0
    if job.attack is None or not before.any():
        return
    on_map = job.objective == "map"
    correct = result.measure_correctness(filter_name)[before]
    yield ("stayed", correct) if on_map else ("success", 1 - correct)
    yield "norm", result.get_values(job.norm)[before]
    if len(queries := result.get_values("queries")):
        yield "queries", queries[before]
        yield "queries_median", queries[before]
    compared = before & (result.measure_correctness(filter_name) > 0) if on_map else before
    for metric, name in (("map_rank_correlation", "rank_correlation"), ("map_iou", "overlap")):
        if len(values := result.get_values(name)) and compared.any():
            yield metric, values[compared]


def _make_row(
    job: Job, filter_name: str, metric: str, values: Float[np.ndarray, " images"], seed: int
) -> StressRow:
    value = float(values.mean())
    if metric == "queries_median":
        value, interval = median_interval(values)
    elif metric in FRACTION_METRICS:
        interval = wilson_interval(values)
    else:
        interval = bootstrap_interval(values, seed)
    return StressRow(
        attack=job.name,
        epsilon=job.epsilon,
        filter=filter_name,
        knowledge=job.knowledge,
        metric=metric,
        value=value,
        ci95=interval,
        n=len(values),
        better="lower" if metric in LOWER_IS_BETTER else "higher",
    )


@dataclass(frozen=True)
class EarlierRows(Generic[R]):
    """What earlier calls wrote into a file, as far as it stays.

    Args:
        rows: rows of earlier calls, in the order of the file.
        content: everything else that the file holds; empty without a file.
    """

    rows: tuple[R, ...] = ()
    content: Mapping[str, Any] | None = None

    def merge(self, rows: Sequence[R], columns: Sequence[str]) -> list[R]:
        """Return earlier rows together with new ones, which replace those of the same subject.

        Args:
            rows: rows of this call.
            columns: fields that say what a row is about; rows are grouped by them, in the order in
                which their values first occur.

        Returns:
            All rows.
        """
        everything = (*self.rows, *rows)
        ranks = [
            {value: rank for rank, value in enumerate(dict.fromkeys(values))}
            for values in ([getattr(row, column) for row in everything] for column in columns)
        ]

        def find_place(row: R) -> tuple[int, ...]:
            return tuple(
                rank[getattr(row, column)] for rank, column in zip(ranks, columns, strict=True)
            )

        measured = set(map(find_place, rows))
        kept = [row for row in self.rows if find_place(row) not in measured]
        return sorted([*kept, *rows], key=find_place)

    def get(self, key: str) -> dict[str, Any]:
        """Return a mapping that the file holds; empty where there is none."""
        return dict((self.content or {}).get(key) or {})


def read_earlier_rows(
    path: Path,
    row_type: type[R],
    settings: Mapping[str, Any],
    definitions: Mapping[str, str],
    name_parts: Sequence[str],
) -> EarlierRows[R]:
    """Read the rows that earlier calls with the same settings wrote.

    A row whose name stands for something else in this call, such as other images, is left out with
    a warning. What an older file does not say is not compared.

    Args:
        path: JSON file with `rows`, the settings, and the `definitions` of its names.
        row_type: named tuple of a row.
        settings: what must be as before, by its key in the file; `seed` may be in `environment`.
        definitions: what the names of this call stand for.
        name_parts: patterns of the names on which a row depends, such as `images {images}`.

    Returns:
        The rows that stay, and the rest of the file.

    Raises:
        RunError: the file is damaged or of another command, or was made with other settings.
    """
    if not path.is_file():
        return EarlierRows()
    try:
        content = parse_json(path.read_bytes())
        rows = TypeAdapter(list[row_type]).validate_python(content.pop("rows"))  # type: ignore[valid-type]
        before = {"seed": content["environment"]["seed"], **content}
        earlier = dict(content.get("definitions", {}))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path}: is damaged, or of another command; choose another --out"
        ) from error
    shared = [key for key in settings if key in before]
    RunRecord(path.parent, {}, "measurement").compare(
        {key: before[key] for key in shared}, {key: settings[key] for key in shared}
    )
    changed = [name for name, text in definitions.items() if earlier.get(name, text) != text]

    def is_kept(row: Any) -> bool:
        return not any(pattern.format(**row._asdict()) in changed for pattern in name_parts)

    kept = tuple(row for row in rows if is_kept(row))
    if len(kept) < len(rows):
        warn(
            f"{path}: rows of earlier calls are left out, as another one has this name now: "
            f"{', '.join(changed)}"
        )
    return EarlierRows(kept, content)
