"""Tables of Markdown for the generated pages, and text that is safe in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def render_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table.

    Args:
        header: titles of the columns.
        rows: rows of cells in Markdown, one cell for each column.

    Returns:
        One line for the titles, one below them, and one for each row.
    """
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def escape_text(text: str) -> str:
    """Return text on one line in which Markdown sees no tags, links, emphasis or ends of cells.

    Spans of code stay as they are: a bar in them does not end a cell.
    """
    parts = " ".join(text.split()).split("`")
    marks = {"<": "&lt;", "|": "&#124;", "[": "\\[", "*": "\\*", "_": "\\_"}
    for index in range(0, len(parts), 2):  # the others are spans of code
        parts[index] = "".join(marks.get(letter, letter) for letter in parts[index])
    return "`".join(parts)
