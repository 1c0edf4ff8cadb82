"""Files that list the classes of a classifier: one per line, numbered, as CSV, or as JSON.

Where every line has a number from 0 on, the numbers are the order of the classes.
"""

from __future__ import annotations

import ast
import codecs
import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apercu.errors import ClassifierError

_INDEX_WORDS = {"index", "idx", "id", "class_id", "class_index", "class_idx", "label_id", "number"}
_NAME_WORDS = {"name", "class_name", "label_name", "label", "class", "description", "title"}
_KEYS = ("id2label", "names", "class_names", "classes", "labels", "categories")
_REVERSED_KEYS = ("label2id", "class_to_idx")
"""Keys of JSON files beside which the classes stand, of several programs."""
_WORDNET = re.compile(r"(n[0-9]{8})[\s,]+(\S.*)")
_COLON = re.compile(r"([0-9]{1,9})\s*:\s*(\S.*)")
_SPACE = re.compile(r"([0-9]{1,9})\s+(\S.*)")
_MAX_LITERAL = 1 << 20
"""Characters of a Python list or dictionary."""


class ClassRow(NamedTuple):
    """A line of a file.

    Attributes:
        identifier: the identifier; the name where there is none.
        name: the name.
    """

    identifier: str
    name: str


def read_class_list(path: str | Path) -> list[ClassRow] | Any:
    """Return the classes of a text file in their order, or the content of a JSON file.

    Args:
        path: the file.

    Returns:
        The rows; or the list or the dictionary that holds the names.

    Raises:
        ClassifierError: the file is missing, no text or empty, is broken JSON, or only some of its
            lines have a tab, or its numbers do not count from 0.
    """
    subject = f"classes {path}"
    try:
        content = Path(path).read_bytes()
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if is_wide else "utf-8-sig").replace("\ufeff", "")
        is_binary = "\0" in text  # UTF-16 without a mark, UTF-32
    except (OSError, ValueError) as error:
        is_binary = isinstance(error, UnicodeDecodeError)
        reason = "no UTF-8 text" if is_binary else getattr(error, "strerror", None) or error
        raise ClassifierError(f"{subject}: {reason}; expected one name per line") from None
    if is_binary:
        raise ClassifierError(f"{subject}: no UTF-8 text; expected one name per line")
    if Path(path).suffix.lower() in (".yaml", ".yml", ".jsonl"):
        kind = Path(path).suffix.lower()
        raise ClassifierError(f"{subject}: {kind} is not read; write one name per line, or JSON")
    names = _parse_structure(text, subject)
    if names is not None:
        return names
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    try:
        rows = _read_table(lines, is_csv=Path(path).suffix.lower() == ".csv")
    except (ValueError, csv.Error) as error:
        raise ClassifierError(f"{subject}: {error}") from None
    if not rows:
        raise ClassifierError(
            f"{subject}: expected one class per line, all `name` or all `identifier<TAB>name`"
        )
    return rows


def find_order(numbers: Sequence[str]) -> list[int] | None:
    """Return the positions of the numbers 0, 1 … in a column; None if it holds anything else.

    >>> find_order(["2", "0", "1"]), find_order(["1", "2"]), find_order(["a", "0"])
    ([1, 2, 0], None, None)
    """
    if not all(re.fullmatch("[0-9]{1,9}", number) for number in numbers):
        return None
    values = [int(number) for number in numbers]
    if sorted(values) != list(range(len(values))):
        return None
    return sorted(range(len(values)), key=values.__getitem__)


def _parse_structure(text: str, subject: str) -> Any:
    """Return the list or dictionary in JSON or Python; None where the text is neither."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        content = _parse_literal(text)
        if content is None:
            if text.split(maxsplit=1)[0] in ("[", "{") or subject.endswith(".json"):
                raise ClassifierError(f"{subject}: broken JSON ({error})") from None
            return None
    if not content:
        raise ClassifierError(f"{subject}: it holds no names")
    if isinstance(content, dict):
        inner = (content.get(key) for key in (*_KEYS, *_REVERSED_KEYS))
        content = next((value for value in inner if isinstance(value, dict | list)), content)
    if isinstance(content, list) and all(
        isinstance(row, dict) and {"id", "name"} <= row.keys() for row in content
    ):
        return {str(row["id"]): row["name"] for row in content}
    return content


def _parse_literal(text: str) -> Any:
    """Return a list or a dictionary as Python writes it, such as `{0: 'a'}`; None for others."""
    if len(text) > _MAX_LITERAL or not text.rstrip().endswith(("]", "}")):
        return None
    try:
        content = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return content if isinstance(content, dict | list) else None


def _read_table(lines: Sequence[str], *, is_csv: bool) -> list[ClassRow]:
    """Return the rows of lines in their order; empty if only some have a tab, or there are none.

    Raises:
        ValueError: the classes have numbers, but not those from 0 on.
    """
    tabbed = [line.split("\t", 1) for line in lines]
    if len({len(cells) for cells in tabbed}) > 1:
        return []
    for delimiter in "\t,;":
        if all(delimiter in line for line in lines):
            cells = [list(map(str.strip, row)) for row in csv.reader(lines, delimiter=delimiter)]
            if len({len(row) for row in cells}) == 1 and (rows := _read_cells(cells, delimiter)):
                return rows
    if lines and len(tabbed[0]) == 2:
        return [ClassRow(cells[0].strip(), cells[1].strip()) for cells in tabbed]
    if is_csv and lines and lines[0].strip("\"'").casefold() in _NAME_WORDS:
        lines = [line.strip('"') for line in lines[1:]]
    return _read_numbered(lines) or [ClassRow(line, line) for line in lines]


def _read_cells(cells: list[list[str]], delimiter: str) -> list[ClassRow]:
    """Return the rows of a table with numbers and names; empty where it is none."""
    header = [word.casefold().replace(" ", "_") for word in cells[0]]
    index = next((i for i, word in enumerate(header) if word in _INDEX_WORDS), None)
    name = next((i for i, word in enumerate(header) if word in _NAME_WORDS), None)
    if index is not None and name is not None:
        return _sort_rows([(row[index], row[name]) for row in cells[1:]], must_count=True)
    if len(cells[0]) != 2 or any(row[0] == row[1] for row in cells):
        return []
    for first, second in ((0, 1), (1, 0)):
        rows = [(row[first], row[second]) for row in cells]
        is_decimal = any(name[:1].isdigit() for _, name in rows) and delimiter != "\t"
        if all(number.isdecimal() for number, _ in rows) and not is_decimal:
            return _sort_rows(rows, must_count=delimiter != "\t")
    return []


def _read_numbered(lines: Sequence[str]) -> list[ClassRow]:
    """Return the rows of `0: cat`, `0 cat`, or identifiers of WordNet; empty for other lines."""
    for pattern in (_WORDNET, _COLON, _SPACE):
        matches = [match for line in lines if (match := pattern.fullmatch(line))]
        rows = [(match[1], match[2]) for match in matches]
        if not rows or len(rows) < len(lines):
            continue
        if pattern is _WORDNET:
            return [ClassRow(*row) for row in rows]
        if pattern is _COLON or len({name for _, name in rows}) == len(rows):
            return _sort_rows(rows, must_count=False)
    return []


def _sort_rows(rows: Sequence[tuple[str, str]], *, must_count: bool) -> list[ClassRow]:
    """Return rows of a number and a name in the order of the numbers.

    Args:
        rows: numbers and names.
        must_count: whether numbers that do not count from 0 are a mistake; else the result is
            empty.
    """
    numbers = [number for number, _ in rows]
    order = find_order(numbers)
    if order is None and must_count:
        shown = ", ".join(numbers[:3]) + (" …" if len(numbers) > 3 else "")
        raise ValueError(
            f"expected the numbers 0 to {len(numbers) - 1} each once, got {shown}; number the "
            "classes in the order of the logits, or leave the numbers out"
        )
    return [ClassRow(*rows[position]) for position in order or ()]
