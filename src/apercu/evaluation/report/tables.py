"""The ranking as Markdown, for a page of documentation, and as CSV, for a spreadsheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from apercu.evaluation.cost import compare_costs, format_break_even
from apercu.evaluation.ranking import (
    Group,
    RankingCell,
    build_ranking,
    count_images,
    find_direction,
    find_reference,
    list_metrics,
)
from apercu.evaluation.report.finding import (
    describe_constant_maps,
    describe_protocol,
    describe_reference,
    describe_thresholds,
    write_finding,
    write_headline,
)
from apercu.evaluation.results import ComparisonResults, Cost
from apercu.io import format_csv_rows, write_file

CSV_HEADER = (
    *("explainer", "metric", "better", "value", "low", "high", "n", "threshold", "other_threshold"),
    *("difference", "difference_low", "difference_high", "p", "reason", "against"),
)
"""Columns of the CSV file.

Differences are those from the explainer in `against`; `reason` says why an explainer could not be
measured. With two folds `threshold` cuts the maps of one half, `other_threshold` those of the other
one.
"""
MARKDOWN_FILE, CSV_FILE = "table.md", "table.csv"
GROUP_WORDS: Mapping[Group, str] = {
    "explainer": "",
    "baseline": " (baseline)",
    "truth": " (knows the truth)",
}
"""What follows the name of a row that does not compete."""


def write_tables(results: ComparisonResults, folder: Path) -> None:
    """Write `table.md` and `table.csv`.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_file(folder / MARKDOWN_FILE, format_markdown(results))
    write_file(folder / CSV_FILE, format_csv(results))


def format_markdown(results: ComparisonResults) -> str:
    """Return the origin of the figures, the ranking, the costs, and what could not be measured."""
    key, environment = results.key, results.environment
    thresholds = describe_thresholds(results)
    left_out = key.settings.get("left_out", ())
    parts = [
        *(f"`{call.command}`" for call in results.calls),
        f"{key.limit} images of {key.images}, classifier {key.classifier} "
        f"({key.fingerprint[:12]}); "
        + ", ".join(f"{name} {value}" for name, value in environment.items() if name != "date")
        + f"; {str(environment.get('date', ''))[:10]}. Mean (95 % interval) on "
        f"{max(count_images(results).values(), default=0)} of them"
        + (f". Thresholds: {thresholds}." if thresholds else ".")
        + (f" Left out, as they cannot be used: {', '.join(left_out)}." if left_out else ""),
        *([f"Protocol: {protocol}"] if (protocol := describe_protocol(results)) else []),
        str(write_finding(results)),
        format_ranking(results),
    ]
    if reference := describe_reference(results):
        parts.insert(-1, reference)
    meanings = [
        f"{own.title}: {own.meaning}; {own.better} is better."
        for name, own in results.own_metrics.items()
        if name in list_metrics(results)
    ]
    parts += [" ".join(meanings)] if meanings else []
    if constant := describe_constant_maps(results):
        parts.append(constant)
    if results.cost:
        parts.append(_format_costs(results))
    return "\n\n".join(parts) + "\n"


def format_csv(results: ComparisonResults) -> str:
    """Return a line per row and per failure, with differences from one explainer."""
    table: list[tuple[object, ...]] = [CSV_HEADER]
    reference = find_reference(results)
    cells = {
        (line.name, metric): cell
        for line in build_ranking(results)
        for metric, cell in line.cells.items()
    }
    for row in results.rows:
        pair = cells[row.explainer, row.metric].paired
        difference = ("", "", "", "") if pair is None else (pair.difference, *pair.ci95, pair.p)
        threshold, other = (
            "" if each is None else each for each in (row.threshold, row.other_threshold)
        )
        names = (row.explainer, row.metric, row.better)
        against = "" if pair is None else reference
        table.append(
            (*names, row.value, *row.ci95, row.n, threshold, other, *difference, "", against)
        )
    blank = [""] * (len(CSV_HEADER) - 3)
    table += [(name, *blank, reason, "") for name, reason in results.failed.items()]
    return format_csv_rows(table)


def format_ranking(results: ComparisonResults) -> str:
    """Return the ranking alone as a Markdown table."""
    metrics = list_metrics(results)
    arrows = {
        metric: "↓" if find_direction(results, metric) == "lower" else "↑" for metric in metrics
    }
    counts = count_images(results)
    most = max(counts.values(), default=0)
    fewer = {metric: f" ({n} images)" for metric, n in counts.items() if n < most}
    header = ["explainer"]
    header += [f"{results.get_metric(m).title} {arrows[m]}{fewer.get(m, '')}" for m in metrics]
    lines = []
    for row in build_ranking(results):
        texts = [row.name + GROUP_WORDS[row.group]]
        for metric in metrics:
            cell = row.cells.get(metric)
            texts.append("" if cell is None else _format_cell(cell))
        lines.append(texts)
    blank = [""] * (len(metrics) - 1)
    lines += [[name, f"not measured: {why}", *blank] for name, why in results.failed.items()]
    return _format_table(header, lines)


def format_text(results: ComparisonResults) -> str:
    """Return the ranking as plain text, and which explainer is first."""
    metrics, ranking = list_metrics(results), build_ranking(results)
    lines = [["explainer", *(results.get_metric(metric).title for metric in metrics)]]
    for row in ranking:
        cells = [row.cells.get(metric) for metric in metrics]
        name = row.name + GROUP_WORDS[row.group]
        lines.append([name, *("" if cell is None else cell.value for cell in cells)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    failed = [f"not measured: {name} ({reason})" for name, reason in results.failed.items()]
    protocol = f"protocol: {text}" if (text := describe_protocol(results)) else ""
    return "\n".join([*table, *failed, write_headline(results), *filter(None, [protocol])])


def format_html(results: ComparisonResults) -> str:
    """Return the ranking as an HTML table, for notebooks."""
    metrics = list_metrics(results)
    arrows = {
        metric: "↓" if find_direction(results, metric) == "lower" else "↑" for metric in metrics
    }
    heads = "".join(
        f'<th scope="col" title="{escape(results.get_metric(metric).meaning)}">'
        f"{escape(results.get_metric(metric).title)} {arrows[metric]}</th>"
        for metric in metrics
    )
    body = ""
    for row in build_ranking(results):
        cells = [row.cells.get(metric) for metric in metrics]
        values = "".join("<td></td>" if cell is None else _format_html_cell(cell) for cell in cells)
        name = escape(row.name + GROUP_WORDS[row.group])
        body += f'<tr><th scope="row">{name}</th>{values}</tr>'
    finding = write_finding(results)
    protocol = f"Protocol: {text}" if (text := describe_protocol(results)) else ""
    for name, reason in results.failed.items():
        body += (
            f'<tr><th scope="row">{escape(name)}</th>'
            f'<td colspan="{len(metrics)}">not measured: {escape(reason)}</td></tr>'
        )
    return (
        f"<p><b>{escape(finding.headline)}</b> {escape(finding.certainty)}</p>"
        '<div style="overflow-x: auto"><table><thead><tr><th scope="col">explainer</th>'
        f"{heads}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<p><small>{escape(describe_constant_maps(results))} "
        f"{escape(describe_reference(results))} {escape(protocol)}</small></p>"
    )


def format_duration(cost: Cost) -> str:
    """Return the median and half the interquartile range; a single call has no range."""
    median = format_milliseconds(cost.ms_per_image)
    return f"{median} ± {format_milliseconds(cost.iqr / 2)}" if cost.iqr else f"{median}, one call"


def format_thresholds(cell: RankingCell) -> str:
    """Return the threshold of a value, or both where they differ; an empty text without one."""
    both = dict.fromkeys((cell.threshold, cell.other_threshold))
    return " and ".join(f"{each:g}" for each in both if each is not None)


def format_milliseconds(milliseconds: float) -> str:
    """Return three significant digits, never with an exponent.

    >>> [format_milliseconds(value) for value in (0.01234, 7.5, 147.3, 5237.2)]
    ['0.0123', '7.50', '147', '5240']
    """
    if milliseconds <= 0:
        return "0"
    magnitude = math.floor(math.log10(milliseconds))
    return f"{round(milliseconds, 2 - magnitude):.{max(0, 2 - magnitude)}f}"


def _format_cell(cell: RankingCell) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value
    threshold = f" at {text}" if (text := format_thresholds(cell)) else ""
    mark = {"better": " ▲", "worse": " ▼"}.get(str(cell.verdict), "")
    return f"{value}{mark} ({cell.interval}){threshold}"


def _format_html_cell(cell: RankingCell) -> str:
    value = f"<b>{cell.value}</b>" if cell.best else cell.value
    mark = {"better": " ▲", "worse": " ▼"}.get(str(cell.verdict), "")
    return f"<td>{value}{mark}<br><small>{cell.interval}</small></td>"


def _format_costs(results: ComparisonResults) -> str:
    header = ["explainer", "batch", "ms per image", "forwards", "queries", "MB", "training s"]
    comparisons = compare_costs(results)
    if any(line.break_even or line.never for line in comparisons):
        header.append("images until training pays")
    lines = []
    for line in comparisons:
        cost = line.cost
        texts = [
            cost.explainer,
            f"{cost.device}, {cost.batch}",
            format_duration(cost),
            f"{cost.classifier_forwards:.2f}",
            f"{cost.queries:g}",
            "" if cost.peak_mb is None else f"{cost.peak_mb:.0f}",
            f"{cost.training_seconds:.0f}",
            format_break_even(line),
        ]
        lines.append(texts[: len(header)])
    return _format_table(header, lines)


def _format_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(header)
    rows = ([cell.replace("|", "\\|") for cell in cells] for cells in (header, rule, *lines))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
