"""Class names: read from a file, made up when there are none, and looked up by what people type."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from apercu.errors import ClassifierError, TargetError, suggest_nearest


@dataclass(frozen=True)
class ClassNames:
    """Readable names, and identifiers (WordNet's, say) where a classifier has them.

    Args:
        names: one per class; a comma separates synonyms, as in `tench, Tinca tinca`.
        identifiers: one per class; the names themselves where there are no others.
    """

    names: tuple[str, ...]
    identifiers: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], identifiers: Iterable[str] | None = None) -> ClassNames:
        names = tuple(names)
        return cls(names, names if identifiers is None else tuple(identifiers))

    @classmethod
    def make_numbered(cls, count: int, kind: str = "class") -> ClassNames:
        """`class 0`, `class 1` …, for a classifier that brings no names."""
        return cls.of(f"{kind} {index}" for index in range(count))

    @classmethod
    def read(cls, path: str | Path) -> ClassNames:
        """Reads one class per line, `name` or `identifier<TAB>name`, in the order of the logits.

        Raises:
            ClassifierError: the file is missing, no text, empty, or only some lines have a tab.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no UTF-8 text"
            raise ClassifierError(f"classes {path}: {reason}; expected one name per line") from None
        rows = [line.split("\t", 1) for line in lines if line.strip()]
        if not rows or len({len(row) for row in rows}) > 1:
            raise ClassifierError(
                f"classes {path}: expected one class per line, all `name` or all "
                "`identifier<TAB>name`"
            )
        return cls.of((row[-1].strip() for row in rows), (row[0].strip() for row in rows))

    def write(self, path: str | Path) -> None:
        """Writes `identifier<TAB>name`, one class per line."""
        rows = zip(self.identifiers, self.names, strict=True)
        Path(path).write_text("".join(f"{i}\t{n}\n" for i, n in rows), encoding="utf-8")

    @property
    def plain(self) -> bool:
        """Whether the names are all there is."""
        return self.identifiers == self.names

    def index_of(self, word: str | int) -> int:
        """The index of a class, by name, synonym, identifier or index; case does not matter.

        A name wins over an index, so that the digit classifier's class "3" is found.

        Raises:
            TargetError: no class is called so, or several are.
        """
        if isinstance(word, int):
            return self._check_index(word)
        found = self._find_by_name(word)
        if len(found) == 1:
            return found[0]
        if found:
            indices = ", ".join(map(str, found))
            raise TargetError(f"target: {word!r} names the classes {indices}; give the index")
        if re.fullmatch(r"-?[0-9]{1,9}", word.strip()):
            return self._check_index(int(word))
        known = [
            *self.names,
            *self.identifiers,
            *(s for n in self.names for s in _split_synonyms(n)),
        ]
        raise TargetError(f"target: no class is called {word!r}{suggest_nearest(word, known)}")

    def _find_by_name(self, word: str) -> list[int]:
        """Classes whose whole name or identifier fits, else those with such a synonym."""
        wanted = word.strip().casefold()
        pairs = list(enumerate(zip(self.names, self.identifiers, strict=True)))
        exact = [i for i, pair in pairs if wanted in (pair[0].casefold(), pair[1].casefold())]
        return exact or [i for i, (name, _) in pairs if wanted in _split_synonyms(name.casefold())]

    def _check_index(self, index: int) -> int:
        if not 0 <= index < len(self.names):
            raise TargetError(
                f"target: expected a class index from 0 to {len(self.names) - 1}, got {index}"
            )
        return index


def _split_synonyms(name: str) -> list[str]:
    return [synonym.strip() for synonym in name.split(",")]
