"""The rows of earlier calls in a file of results, to which a later call adds its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from apercu.errors import RunError
from apercu.io import parse_json
from apercu.log import warn
from apercu.run_record import RunRecord

R = TypeVar("R")


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
    name_parts: Iterable[str],
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
    both = before.keys() & settings.keys()
    RunRecord(path.parent, {}, "measurement").compare(
        *({key: each[key] for key in settings if key in both} for each in (before, settings))
    )
    changed = [name for name, text in definitions.items() if earlier.get(name, text) != text]
    patterns = tuple(name_parts)

    def is_kept(row: Any) -> bool:
        return not any(pattern.format(**row._asdict()) in changed for pattern in patterns)

    kept = tuple(row for row in rows if is_kept(row))
    if len(kept) < len(rows):
        warn(
            f"{path}: rows of earlier calls are left out, as another one has this name now: "
            f"{', '.join(changed)}"
        )
    return EarlierRows(kept, content)
