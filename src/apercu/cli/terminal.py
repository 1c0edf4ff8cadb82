"""What people see while a verb works and when it is done."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from apercu.evaluation import ComparisonResults

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
METRIC_WIDTH = 12
"""Letters that one metric takes in a table."""


def say(line: str) -> None:
    """Print one line on stdout."""
    typer.echo(escape_controls(line))


def warn(line: str) -> None:
    """Print a warning on stderr, in one line."""
    typer.echo(f"warning: {escape_controls(line)}", err=True)


def escape_controls(line: str) -> str:
    r"""Return a line in which control characters, as in names of files, are written as escapes.

    So are line breaks, marks that turn the direction of the text, and bytes that are no UTF-8.

    >>> escape_controls("a\nb.png: café"), escape_controls("\x1b[31mred\udce9.png")
    ('a\\nb.png: café', '\\x1b[31mred\\xe9.png')
    """
    return _CONTROLS.sub(_escape, line)


def _escape(control: re.Match[str]) -> str:
    code = ord(control[0])
    is_byte = 0xDC80 <= code <= 0xDCFF
    return f"\\x{code - 0xDC00:02x}" if is_byte else ascii(control[0])[1:-1]


def show_ranking(results: ComparisonResults) -> None:
    """Print the table of a comparison, best first, with the metrics that fit into the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from apercu.evaluation.ranking import (
        build_ranking,
        find_direction,
        list_metrics,
    )
    from apercu.evaluation.report.finding import describe_protocol, write_headline

    console = Console(emoji=False)
    rows, metrics = build_ranking(results), list_metrics(results)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("explainer", no_wrap=True)
    left = console.width - max((len(row.name) for row in rows), default=0)
    columns = metrics[: max(1, left // (METRIC_WIDTH + 2))]
    for metric in columns:
        arrow = "↓" if find_direction(results, metric) == "lower" else "↑"
        title = f"{escape(escape_controls(results.get_metric(metric).title))} {arrow}"
        table.add_column(title, justify="right", width=METRIC_WIDTH)
    for row in rows:
        cells = [row.cells.get(metric) for metric in columns]
        values = ["" if cell is None else cell.value for cell in cells]
        marked = [
            f"[bold green]{escape(value)}[/]" if cell and cell.best else escape(value)
            for value, cell in zip(values, cells, strict=True)
        ]
        is_dim = row.group != "explainer" or row.at_fixed_threshold
        table.add_row(escape(escape_controls(row.name)), *marked, style="dim" if is_dim else "")
    console.print(table)
    if columns != metrics:
        say(f"{len(metrics) - len(columns)} more metrics in the report")
    for name, reason in results.failed.items():
        console.print(escape_controls(f"not measured: {name} ({reason})"), markup=False)
    console.print(escape_controls(write_headline(results)), markup=False)
    if protocol := describe_protocol(results):
        console.print(f"protocol: {protocol}", markup=False, highlight=False)
