"""The report of a stress test: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from apercu import maps, render
from apercu.classifiers import Classifier
from apercu.io import write_file
from apercu.pages import embed_image, render_page
from apercu.pages.charts import MAX_COLOURS, draw_lines
from apercu.robustness.benchmark import StressBenchmark
from apercu.robustness.jobs import Job, find_test_filters
from apercu.robustness.plan import NONE
from apercu.robustness.results import StressResults, StressRow
from apercu.types import Images, Targets

REPORT = "report.html"
DRAWN_IMAGES = 4
"""Number of images whose attack is drawn."""
STEPS = 41
"""Points of a drawn curve, which is straight between two measured sizes."""
STRIP_SIZE = 1100
"""Longer side of the drawing, in pixels."""
NORMS = {
    "linf": "largest change of a value",
    "l2": "root mean square change of a value",
    "l0": "fraction of the pixels that differ",
}


MAP_METRICS = ("stayed", "map_rank_correlation", "map_iou")


class ReportLine(NamedTuple):
    """One line of the table: an attack at a budget, with a cell per filter and knowledge."""

    attack: str
    budget: str
    cells: tuple[str, ...]


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
        for knowledge in ("naive", "adaptive", "transfer")
        if any((row.filter, row.knowledge) == (name, knowledge) for row in results.rows)
    ]
    page = render_page(
        (files("apercu.robustness") / "stress.html").read_text(),
        about=results.about,
        environment=results.environment,
        warnings=results.warnings,
        columns=columns,
        table=list(_make_lines(results, columns)),
        areas=[row for row in results.rows if row.metric == "auac"],
        wrong=_count_wrong(results),
        success=[row for row in results.rows if row.metric == "success"],
        queries=[row for row in results.rows if row.metric.startswith("queries")],
        moved=[row for row in results.rows if row.metric in MAP_METRICS and _is_bare(row)],
        curves=_draw_curves(results),
        strip=embed_image(_draw_strip(benchmark), STRIP_SIZE),
        percent=format_percent,
        budget=format_budget,
    )
    return write_file(folder / REPORT, page)


def format_percent(row: StressRow) -> str:
    """Format a value with its interval, in %.

    >>> key = "pgd", None, "none", "naive", "top1"
    >>> format_percent(StressRow(*key, 0.5, (0.4, 0.6), 10, "higher"))
    '50.0 (40.0 to 60.0)'
    """
    low, high = (100 * end for end in row.ci95)
    return f"{100 * row.value:.1f} ({low:.1f} to {high:.1f})"


def format_budget(epsilon: float | None) -> str:
    """Format a budget in steps of 8 bit.

    >>> format_budget(8 / 255), format_budget(None)
    ('8/255', '')
    """
    return "" if epsilon is None else f"{255 * epsilon:g}/255"


def _is_bare(row: StressRow) -> bool:
    return row.filter == NONE and row.knowledge == "naive"


def _count_wrong(results: StressResults) -> list[str]:
    """Count behind each filter how many images are wrong before any attack."""
    return [
        f"{row.filter} {row.n - round(row.n * row.value)} of {row.n}"
        for row in results.rows
        if row.attack == NONE and row.metric == "top1"
    ]


def _make_lines(results: StressResults, columns: list[tuple[str, str]]) -> Iterator[ReportLine]:
    """Make the lines with top-1 and top-5 of every attack, in the order in which they ran."""
    by_key = {
        (row.attack, row.epsilon, row.filter, row.knowledge, row.metric): row
        for row in results.rows
    }
    for attack, epsilon in dict.fromkeys((row.attack, row.epsilon) for row in results.rows):
        cells = []
        for filter_name, knowledge in columns:
            cell_rows = [
                by_key.get((attack, epsilon, filter_name, knowledge, metric))
                for metric in ("top1", "top5")
            ]
            percentages = [format_percent(row) for row in cell_rows if row is not None]
            cells.append(" · ".join(percentages))
        if any(cells):
            yield ReportLine(attack, format_budget(epsilon), tuple(cells))


def _draw_curves(results: StressResults) -> list[dict[str, Any]]:
    """Draw one chart per attack, with a curve for every filter and knowledge."""
    charts = []
    for attack in dict.fromkeys(curve.attack for curve in results.curves):
        curves = [curve for curve in results.curves if curve.attack == attack]
        named = {
            curve.filter
            if curve.knowledge == "naive"
            else f"{curve.filter}, {curve.knowledge}": curve
            for curve in curves
        }
        names = list(named)[:MAX_COLOURS]
        last = max(curve.sizes[-1] for curve in curves)
        scale = 255 if curves[0].norm != "l0" else 100
        unit = "1/255" if scale == 255 else "%"
        steps = np.linspace(0, last, STEPS)
        drawing = draw_lines(
            {n: np.interp(steps, c.sizes, c.accuracy).tolist() for n, c in named.items()},
            names,
            [name for name in names if name.endswith("adaptive")],
            f"{NORMS[curves[0].norm]}, {unit}",
            y_title="accuracy",
            x_end=scale * last,
        )
        charts.append({"title": attack, "names": names, "drawing": Markup(drawing)})
    return charts


def _draw_strip(benchmark: StressBenchmark) -> Image.Image:
    """Draw image, change, filtered images, and maps before and after, for one job."""
    job, device = choose_job_to_draw(benchmark.jobs), benchmark.classifier.device
    size = benchmark.plan.batch  # an attack that uses the whole batch needs the same batch again
    batch = next(
        benchmark.sample.read_batches(benchmark.classifier, benchmark.sample.test[:size], size)
    )
    images, targets = batch.images.to(device), batch.targets.to(device)
    attacked = benchmark.make_images(job, images, targets)
    rows = [
        list(_draw_tiles(benchmark, job, images[[row]], attacked[[row]], targets[[row]]))
        for row in range(min(DRAWN_IMAGES, len(images)))
    ]
    return render.draw_contact_sheet(rows, 160)


def choose_job_to_draw(jobs: Sequence[Job]) -> Job:
    """Choose the attack on the classifier itself with the largest budget.

    Attacks on the bare classifier come before those behind a filter. The attack runs once more, so
    one that follows gradients comes before one that needs a thousand queries. Without attacks it
    is the job of the clean images.
    """
    own = [job for job in jobs if not job.on_surrogate]
    own.reverse()  # the last one of equal jobs is chosen

    def sort_key(job: Job) -> tuple[bool, bool, float, bool]:
        follows_gradients = job.attack is not None and job.attack.any_objective
        return (
            job.attack is not None,
            job.known_filter is None,
            job.epsilon or 0.0,
            follows_gradients,
        )

    return max(own, key=sort_key)


def _draw_tiles(
    benchmark: StressBenchmark, job: Job, images: Images, attacked: Images, targets: Targets
) -> Iterator[render.Tile]:
    """Draw the tiles of one image: each argument holds one image, or one class."""
    classifier, explainer = benchmark.classifier, benchmark.explainer
    for inputs in (images, attacked):
        yield render.Tile(render.to_image(inputs[0].cpu()), _name_class(classifier, inputs))
    change = (attacked - images)[0].cpu()
    through = f" through {job.known_filter}" if job.known_filter else ""
    caption = f"{job.name} {format_budget(job.epsilon)}{through}"
    yield render.Tile(
        render.draw_difference(change), f"{caption}\n{render.describe_change(change)}"
    )
    for name in find_test_filters(job, benchmark.filters, benchmark.plan):
        filter = benchmark.filters[name]
        if filter is not None:
            filtered = filter(attacked)
            title = f"{name}: {_name_class(classifier, filtered)}"
            yield render.Tile(render.to_image(filtered[0].cpu()), title)
    if explainer is not None:
        for inputs, title in ((images, "map before"), (attacked, "map after")):
            scaled = maps.min_max_scale(explainer.attribute(inputs, targets)).cpu()
            yield render.Tile(render.draw_overlay(inputs[0].cpu(), scaled[0]), title)


def _name_class(classifier: Classifier, images: Images) -> str:
    """Return the short name of the class that is predicted for the first image."""
    return classifier.classes[int(classifier(images[:1]).argmax())].partition(",")[0]
