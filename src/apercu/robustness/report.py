"""The report of a stress test: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from apercu import maps, render
from apercu.classifiers import Classifier
from apercu.filters import NONE
from apercu.io import write_file
from apercu.pages import (
    FEW_IMAGES,
    Figure,
    FigureRow,
    Finding,
    FindingLine,
    count_noun,
    embed_image,
    name_subject,
    render_page,
)
from apercu.pages.charts import MAX_COLOURS, draw_lines
from apercu.robustness.benchmark import StressBenchmark
from apercu.robustness.curves import NORMS
from apercu.robustness.jobs import (
    KNOWLEDGE,
    AttackKey,
    Job,
    choose_job_to_draw,
    find_test_filters,
    format_budget,
)
from apercu.robustness.plan import find_objective_name
from apercu.robustness.results import (
    StressResults,
    StressRow,
    format_attack,
    format_curve,
    format_filter,
    format_percent,
    format_situation,
    format_warning,
)
from apercu.types import Images, Targets

REPORT = "report.html"
DRAWN_IMAGES = 4
"""Number of images whose attack is drawn."""
HARD_TO_SEE = 8 / 255
"""Largest change of a value that most people do not see in a photograph."""
MANY_CLASSES = 10
"""Classes of which more than these have a first five that says something."""
STEPS = 41
"""Points of a drawn curve, which is straight between two measured sizes."""
MAP_METRICS = {
    "map_rank_correlation": "rank correlation of the pixels of both maps",
    "map_iou": "overlap of the strongest fifth of both maps",
    "stayed": "images whose class stayed, for attacks on the map",
}
"""How far a map moves, in plain words."""


@dataclass(frozen=True)
class ReportCell:
    """One accuracy of the table: the row, and that of the first five classes where it differs."""

    top1: StressRow
    top5: StressRow | None


@dataclass(frozen=True)
class ReportLine:
    """One line of the table: an attack at a budget, with a cell per filter and knowledge."""

    attack: str
    cells: tuple[ReportCell | None, ...]


def write_report(results: StressResults, benchmark: StressBenchmark, folder: Path) -> Path:
    """Write the report as `report.html`.

    Args:
        results: results of the stress test.
        benchmark: benchmark that made them, to draw some images.
        folder: folder of the report.

    Returns:
        The path of the report.

    Raises:
        OutputError: the folder cannot be written.
    """
    columns = [
        (name, knowledge)
        for name in benchmark.filters
        for knowledge in KNOWLEDGE
        if any((row.filter, row.knowledge) == (name, knowledge) for row in results.rows)
    ]
    has_top5 = len(benchmark.classifier.classes) > MANY_CLASSES
    page = render_page(
        (files("apercu.robustness") / "stress.html").read_text(encoding="utf-8"),
        finding=write_finding(results),
        about=results.about,
        environment=results.environment,
        warnings=[format_warning(line) for line in results.warnings],
        guard_note=results.guard_note,
        columns=[_name_column(*column) for column in columns],
        groups=_group_lines(list(_make_lines(results, columns, has_top5=has_top5))),
        areas=[row for row in results.rows if row.metric == "auac"],
        wrong=_count_wrong(results),
        success=[row for row in results.rows if row.metric == "success"],
        queries=[row for row in results.rows if row.metric.startswith("queries")],
        moved=_list_moved_maps(results),
        map_metrics=MAP_METRICS,
        curves=_draw_curves(results),
        images=list(_draw_rows(benchmark)),
        percent=format_percent,
        attack=format_attack,
        situation=format_situation,
    )
    return write_file(folder / REPORT, page)


def write_finding(results: StressResults) -> Finding:
    """Return what a stress test found: how much an attack takes away, and how sure that is.

    Two accuracies differ clearly where their 95 % intervals do not overlap.

    Args:
        results: results of the stress test.

    Returns:
        The sentences.
    """
    accuracies = [row for row in results.rows if row.metric == "top1"]
    clean = next(row for row in accuracies if row.attack == NONE)
    own = [row for row in accuracies if row.filter == clean.filter]
    attacks = [row for row in own if _is_attack(row) and row.knowledge != "transfer"]
    images = count_noun(clean.n, "image")
    certainty = [
        f"Measured on {images} of {name_subject(str(results.about['images']))}. "
        "“Clearly” means more than chance: the 95\u00a0% intervals do not overlap."
    ]
    if clean.n < FEW_IMAGES:
        certainty.append("So few images show only large differences.")
    if results.warnings:
        certainty.append(
            f"{count_noun(len(results.warnings), 'number')} of this page "
            f"{'looks' if len(results.warnings) == 1 else 'look'} better than the truth; "
            "the warnings below say why."
        )
    lines = [*_describe_attacks(attacks, clean), *_describe_filters(accuracies)]
    lines += _describe_moved_maps(results)
    return Finding(_write_headline(results, clean, attacks), " ".join(certainty), tuple(lines))


def _write_headline(results: StressResults, clean: StressRow, attacks: Sequence[StressRow]) -> str:
    name = f"the classifier {name_subject(str(results.about['classifier']))}"
    name = name.removesuffix(" classifier")  # a folder of this name
    behind = "" if clean.filter == NONE else f" behind {clean.filter}"
    verb = "is right on" if results.about["targets"] == "labels" else "keeps its prediction on"
    before = f"{verb} {clean.count} of {count_noun(clean.n, 'image')}"
    if not attacks:
        return f"No attack was measured: {name}{behind} {before}."
    capitalised = name[0].upper() + name[1:]
    if not clean.count:
        return f"{capitalised}{behind} {before} before any attack, so no attack can show anything."
    worst = min(attacks, key=lambda row: row.value)
    after = f"on {worst.count} after the strongest attack, {format_attack(worst)}"
    numbers = f"{before}, and {after}"
    if not _is_clearly_lower(worst, clean):
        return f"No attack here clearly fools {name}{behind}: it {numbers}."
    if worst.value <= clean.value / 2:
        hard_to_see = worst.epsilon is not None and worst.epsilon <= HARD_TO_SEE
        cause = "Changes that are hard to see" if hard_to_see else "Attacks"
        return f"{cause} fool {name}{behind}: it {numbers}."
    return f"{capitalised}{behind} {numbers}."


def _is_attack(row: StressRow) -> bool:
    """Whether a row is about an attack on the class."""
    return row.attack != NONE and find_objective_name(row.attack) != "map"


def _is_clearly_lower(row: StressRow, other: StressRow) -> bool:
    """Whether the whole interval of a row lies below that of another."""
    return row.ci95[1] < other.ci95[0]


def _describe_attacks(attacks: Sequence[StressRow], clean: StressRow) -> Iterator[FindingLine]:
    """Yield how much is right after each attack, at the budget that takes most away."""
    for attack in dict.fromkeys(row.attack for row in attacks):
        rows = [row for row in attacks if row.attack == attack]
        worst = min(rows, key=lambda row: row.value)
        yield FindingLine(
            f"After {format_attack(worst)}, {format_percent(worst)} of the images are right, "
            f"before {format_percent(clean)}.",
            "clear" if _is_clearly_lower(worst, clean) else "chance",
        )


def _describe_filters(accuracies: Sequence[StressRow]) -> Iterator[FindingLine]:
    """Yield what each filter is worth: against attackers that know it, and that do not."""
    for name in dict.fromkeys(row.filter for row in accuracies if row.filter != NONE):
        attacked = [row for row in accuracies if row.filter == name and _is_attack(row)]
        worst = _find_lowest(attacked)
        if not worst:
            continue
        parts = [
            f"{format_percent(row)} {'after attacks' if knowledge == 'transfer' else 'where the'} "
            f"{KNOWLEDGE[knowledge]}"
            for knowledge, row in worst.items()
        ]
        naive, adaptive = worst.get("naive"), worst.get("adaptive")
        helps_naive_only = naive and adaptive and _is_clearly_lower(adaptive, naive)
        text = f"Behind {name}, after the strongest attack: {'; '.join(parts)}."
        if helps_naive_only:
            text += " It only helps against attackers who do not know of it."
        yield FindingLine(text, "warning" if helps_naive_only else "plain")


def _find_lowest(rows: Sequence[StressRow]) -> dict[str, StressRow]:
    """Return the row with the lowest accuracy for each knowledge of which there are rows."""
    lowest: dict[str, StressRow] = {}
    for knowledge in KNOWLEDGE:
        own = [row for row in rows if row.knowledge == knowledge]
        if own:
            lowest[knowledge] = min(own, key=lambda row: row.value)
    return lowest


def _describe_moved_maps(results: StressResults) -> Iterator[FindingLine]:
    """Yield how far each attack on the map moves it, at the budget that moves it most."""
    rows = [
        row
        for row in results.rows
        if row.metric == "map_rank_correlation" and (row.filter, row.knowledge) == (NONE, "naive")
    ]
    for attack in dict.fromkeys(row.attack for row in rows):
        if find_objective_name(attack) == "map":
            worst = min((row for row in rows if row.attack == attack), key=lambda row: row.value)
            yield FindingLine(
                f"{format_attack(worst)} moves the map while the class stays: the rank correlation "
                f"of the map before and after is {worst.value:.2f} "
                f"({worst.ci95[0]:.2f} to {worst.ci95[1]:.2f}) on {count_noun(worst.n, 'image')}."
            )


def _count_wrong(results: StressResults) -> list[str]:
    """Count behind each filter how many images are wrong before any attack."""
    return [
        f"{format_filter(row.filter)} {row.n - row.count} of {row.n}"
        for row in results.rows
        if row.attack == NONE and row.metric == "top1"
    ]


def _name_column(filter_name: str, knowledge: str) -> tuple[str, str]:
    """Return the heading of a column, and what the attacker knows."""
    is_bare = filter_name == NONE and knowledge == "naive"
    return format_filter(filter_name), "the classifier itself" if is_bare else KNOWLEDGE[knowledge]


def _list_moved_maps(results: StressResults) -> list[dict[str, StressRow]]:
    """Return the rows about maps by metric, one dictionary for each attack and budget."""
    moved: dict[AttackKey, dict[str, StressRow]] = {}
    for row in results.rows:
        if row.metric in MAP_METRICS and (row.filter, row.knowledge) == (NONE, "naive"):
            moved.setdefault((row.attack, row.epsilon), {})[row.metric] = row
    return list(moved.values())


def _make_lines(
    results: StressResults, columns: list[tuple[str, str]], *, has_top5: bool
) -> Iterator[ReportLine]:
    """Make the lines with top-1 and top-5 of every attack, in the order in which they ran."""
    by_key = {
        (row.attack, row.epsilon, row.filter, row.knowledge, row.metric): row
        for row in results.rows
    }
    for attack, epsilon in dict.fromkeys((row.attack, row.epsilon) for row in results.rows):
        cells: list[ReportCell | None] = []
        for column in columns:
            top1 = by_key.get((attack, epsilon, *column, "top1"))
            top5 = by_key.get((attack, epsilon, *column, "top5")) if has_top5 else None
            cells.append(None if top1 is None else ReportCell(top1, top5))
        if any(cells):
            yield ReportLine(attack, tuple(cells))


def _group_lines(lines: Sequence[ReportLine]) -> list[tuple[str, str, list[ReportLine]]]:
    """Return title, note and lines of each group: no attack, attacks on class and on map."""
    groups = {
        "Before any attack": "",
        "Attacks on the class": "the attacker wants another class",
        "Attacks on the map": "the class should stay, and the map move",
    }
    members: dict[str, list[ReportLine]] = {title: [] for title in groups}
    for line in lines:
        members[_title_group(line.attack)].append(line)
    return [(title, note, members[title]) for title, note in groups.items() if members[title]]


def _title_group(attack: str) -> str:
    """Return the title of the group of lines to which an attack belongs."""
    if attack == NONE:
        return "Before any attack"
    is_on_map = find_objective_name(attack) == "map"
    return "Attacks on the map" if is_on_map else "Attacks on the class"


def _draw_curves(results: StressResults) -> list[dict[str, Any]]:
    """Draw one chart per attack, with a curve for every filter and knowledge."""
    charts = []
    for attack in dict.fromkeys(curve.attack for curve in results.curves):
        curves = [curve for curve in results.curves if curve.attack == attack]
        named = {format_curve(curve): curve for curve in curves}
        names = list(named)[:MAX_COLOURS]
        known = {name for name, curve in named.items() if curve.knowledge == "adaptive"}
        last = max(curve.sizes[-1] for curve in curves)
        scale, unit = (100, "%") if curves[0].norm == "l0" else (255, "1/255")
        steps = np.linspace(0, last, STEPS)
        drawing = draw_lines(
            {n: np.interp(steps, c.sizes, c.accuracy).tolist() for n, c in named.items()},
            names,
            known,
            f"{NORMS[curves[0].norm]}, {unit}",
            y_title="fraction that is right",
            x_end=scale * last,
        )
        charts.append({"title": attack, "names": names, "others": "", "drawing": Markup(drawing)})
    return charts


def _draw_rows(benchmark: StressBenchmark) -> Iterator[FigureRow]:
    """Draw image, change, filtered images, and maps before and after, for one job."""
    job, device = choose_job_to_draw(benchmark.jobs), benchmark.classifier.device
    size = benchmark.plan.batch  # an attack that uses the whole batch needs the same batch again
    batch = next(
        benchmark.sample.read_batches(benchmark.classifier, benchmark.sample.test[:size], size)
    )
    images, targets = batch.images.to(device), batch.targets.to(device)
    attacked = benchmark.make_images(job, images, targets)
    for row, record in list(enumerate(batch.records))[:DRAWN_IMAGES]:
        views = list(_draw_views(benchmark, job, images[[row]], attacked[[row]], targets[[row]]))
        title = benchmark.classifier.names.short_names[record.target]
        yield FigureRow(title, record.name, views)


def _draw_views(
    benchmark: StressBenchmark, job: Job, images: Images, attacked: Images, targets: Targets
) -> Iterator[Figure]:
    """Draw the views of one image: each argument holds one image, or one class."""
    classifier, explainer = benchmark.classifier, benchmark.explainer
    through = f" through {job.known_filter}" if job.known_filter else ""
    name = (
        "no attack" if job.attack is None else f"{job.name} {format_budget(job.epsilon)}{through}"
    )
    for inputs, title in ((images, "the image"), (attacked, f"after {name}")):
        yield _make_figure(title, inputs, _describe_prediction(classifier, inputs))
    change = (attacked - images)[0].cpu()
    note = render.describe_change(change)
    yield Figure(
        "what was changed", embed_image(render.draw_difference(change)), f"the change: {note}", note
    )
    for filter_name in find_test_filters(job, benchmark.filters, benchmark.plan):
        filter = benchmark.filters[filter_name]
        if filter is not None:
            filtered = filter(attacked)
            note = _describe_prediction(classifier, filtered)
            yield _make_figure(f"then behind {filter_name}", filtered, note)
    if explainer is not None:
        for inputs, title in ((images, "map before"), (attacked, "map after")):
            scaled = maps.min_max_scale(explainer.attribute(inputs, targets)).cpu()
            overlay = embed_image(render.draw_overlay(inputs[0].cpu(), scaled[0]))
            yield Figure(title, overlay, f"{title} the attack, for the true class")


def _make_figure(title: str, images: Images, note: str) -> Figure:
    """Make the figure of the first image of a batch."""
    return Figure(title, embed_image(render.to_image(images[0].cpu())), f"{title}: {note}", note)


def _describe_prediction(classifier: Classifier, images: Images) -> str:
    """Return the class that is predicted for the first image, and its probability."""
    probabilities = classifier.predict_probabilities(images[:1])[0]
    predicted = int(probabilities.argmax())
    name = classifier.names.short_names[predicted]
    return f"classifier: {name}, {float(probabilities[predicted]):.0%}"
