"""A stress test as one HTML file that opens offline: tables, curves, attacked images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from apercu import maps, render
from apercu.evaluation.report import embed_image, render_style, render_template
from apercu.evaluation.report.charts import MAX_COLOURS, draw_lines
from apercu.io import write_file
from apercu.robustness.benchmark import StressBenchmark
from apercu.robustness.plan import NONE, Job, find_test_filters
from apercu.robustness.rows import StressResults, StressRow
from apercu.types import Images, Targets

REPORT = "report.html"
DRAWN_IMAGES = 4
"""Images whose attack is drawn."""
STEPS = 41
"""Points of a drawn curve, which is straight between two measured sizes."""
ENLARGED = 10
"""How much a change is enlarged to be seen."""
STRIP_SIZE = 1100
"""Longer side of the drawing, in pixels."""
NORMS = {
    "linf": "largest change of a value",
    "l2": "root mean square change of a value",
    "l0": "share of the pixels that differ",
}


MAP_METRICS = ("stayed", "map_rank_correlation", "map_iou")


class ReportLine(NamedTuple):
    """One line of the table: an attack at a budget, and its cells by filter and knowledge."""

    attack: str
    budget: str
    cells: tuple[str, ...]


def write_report(results: StressResults, bench: StressBenchmark, folder: Path) -> Path:
    """Writes `report.html`.

    Raises:
        OutputError: the folder cannot be written.
    """
    columns = [
        (name, knows)
        for name in bench.filters
        for knows in ("naive", "adaptive", "transfer")
        if any((row.filter, row.knowledge) == (name, knows) for row in results.rows)
    ]
    page = render_template(
        (files("apercu.robustness") / "stress.html").read_text(),
        style=render_style(1),
        about=results.about,
        environment=results.environment,
        warnings=results.warnings,
        columns=columns,
        table=list(_make_lines(results, columns)),
        areas=[row for row in results.rows if row.metric == "auac"],
        wrong=_count_wrong(results),
        success=[row for row in results.rows if row.metric == "success"],
        asked=[row for row in results.rows if row.metric.startswith("queries")],
        moved=[row for row in results.rows if row.metric in MAP_METRICS and _is_bare(row)],
        curves=_draw_curves(results),
        strip=embed_image(_draw_strip(bench), STRIP_SIZE),
        percent=format_percent,
        budget=format_budget,
        enlarged=ENLARGED,
    )
    return write_file(folder / REPORT, page)


def format_percent(row: StressRow) -> str:
    """A value with its interval, in %.

    >>> percent(Row("pgd", None, "none", "naive", "top1", 0.5, (0.4, 0.6), 10, "higher"))
    '50.0 (40.0 to 60.0)'
    """
    low, high = (100 * end for end in row.ci95)
    return f"{100 * row.value:.1f} ({low:.1f} to {high:.1f})"


def format_budget(epsilon: float | None) -> str:
    """A budget in steps of 8 bit.

    >>> budget(8 / 255), budget(None)
    ('8/255', '')
    """
    return "" if epsilon is None else f"{255 * epsilon:g}/255"


def _is_bare(row: StressRow) -> bool:
    return row.filter == NONE and row.knowledge == "naive"


def _count_wrong(results: StressResults) -> list[str]:
    """Behind each filter, how many images are wrong before any attack."""
    return [
        f"{row.filter} {row.n - round(row.n * row.value)} of {row.n}"
        for row in results.rows
        if row.attack == NONE and row.metric == "top1"
    ]


def _make_lines(results: StressResults, columns: list[tuple[str, str]]) -> Iterator[ReportLine]:
    """Top-1 and top-5 of every attack, in the order in which they were made."""
    found = {
        (row.attack, row.epsilon, row.filter, row.knowledge, row.metric): row
        for row in results.rows
    }
    for attack, epsilon in dict.fromkeys((row.attack, row.epsilon) for row in results.rows):
        cells = []
        for behind, knows in columns:
            kinds = [
                found.get((attack, epsilon, behind, knows, metric)) for metric in ("top1", "top5")
            ]
            shown = [format_percent(row) for row in kinds if row is not None]
            cells.append(" · ".join(shown))
        if any(cells):
            yield ReportLine(attack, format_budget(epsilon), tuple(cells))


def _draw_curves(results: StressResults) -> list[dict[str, Any]]:
    """One drawing per attack and norm: every filter and knowledge."""
    drawn = []
    for attack in dict.fromkeys(curve.attack for curve in results.curves):
        mine = [curve for curve in results.curves if curve.attack == attack]
        found = {
            curve.filter
            if curve.knowledge == "naive"
            else f"{curve.filter}, {curve.knowledge}": curve
            for curve in mine
        }
        names = list(found)[:MAX_COLOURS]
        last = max(curve.sizes[-1] for curve in mine)
        scale = 255 if mine[0].norm != "l0" else 100
        unit = "1/255" if scale == 255 else "%"
        steps = np.linspace(0, last, STEPS)
        drawing = draw_lines(
            {n: np.interp(steps, c.sizes, c.accuracy).tolist() for n, c in found.items()},
            names,
            [name for name in names if name.endswith("adaptive")],
            f"{NORMS[mine[0].norm]}, {unit}",
            y_title="accuracy",
            x_end=scale * last,
        )
        drawn.append({"title": attack, "names": names, "drawing": Markup(drawing)})
    return drawn


def _draw_strip(bench: StressBenchmark) -> Image.Image:
    """Image, change, filtered, and maps before and after, by the job that is drawn."""
    job, device = choose_job_to_draw(bench.jobs), bench.classifier.device
    size = bench.plan.batch  # an attack that looks at its neighbours needs the same ones again
    trial = next(bench.sample.read_batches(bench.classifier, bench.sample.test[:size], size))
    images, targets = trial.images.to(device), trial.targets.to(device)
    attacked = bench.make_images(job, images, targets)
    rows = [
        list(_draw_tiles(bench, job, images[[one]], attacked[[one]], targets[[one]]))
        for one in range(min(DRAWN_IMAGES, len(images)))
    ]
    return render.draw_contact_sheet(rows, 160)


def choose_job_to_draw(found: Sequence[Job]) -> Job:
    """The attack on the classifier itself with the largest budget, bare if there is one, else
    behind a filter; honest images where there is none.

    It is made once more, so one that climbs comes before one that asks a thousand times.
    """
    own = [job for job in found if not job.on_surrogate]
    own.reverse()  # of equal ones the last

    def merit(job: Job) -> tuple[bool, bool, float, bool]:
        climbs = job.attack is not None and job.attack.any_objective
        return job.attack is not None, job.known_filter is None, job.epsilon or 0.0, climbs

    return max(own, key=merit)


def _draw_tiles(
    bench: StressBenchmark, job: Job, images: Images, attacked: Images, targets: Targets
) -> Iterator[render.Tile]:
    classifier, explainer = bench.classifier, bench.explainer
    named = [
        classifier.classes[int(classifier(shown).argmax())].partition(",")[0]
        for shown in (images, attacked)
    ]
    yield render.Tile(render.to_image(images[0].cpu()), named[0])
    yield render.Tile(render.to_image(attacked[0].cpu()), named[1])
    change = ((attacked - images) * ENLARGED)[0].cpu()
    through = f" through {job.known_filter}" if job.known_filter else ""
    caption = f"{job.name} {format_budget(job.epsilon)}{through}"
    yield render.Tile(render.draw_difference(change), f"{caption}\n{ENLARGED}-fold")
    for name in find_test_filters(job, dict(bench.filters), bench.plan):
        one = bench.filters[name]
        if one is not None:
            filtered = one(attacked)
            seen = classifier.classes[int(classifier(filtered).argmax())].partition(",")[0]
            yield render.Tile(render.to_image(filtered[0].cpu()), f"{name}: {seen}")
    if explainer is not None:
        for shown, caption in ((images, "map before"), (attacked, "map after")):
            found = maps.min_max_scale(explainer.attribute(shown, targets)).cpu()
            yield render.Tile(render.draw_overlay(shown[0].cpu(), found[0]), caption)
