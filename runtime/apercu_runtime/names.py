"""Class names, looked up by what people type, and one class per image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from apercu_runtime.errors import TargetError, suggest_nearest

TOP = -1
"""What a graph takes for the class seen most."""

Target: TypeAlias = int | str | Sequence[int | str] | NDArray[Any] | None
"""A class for all images (index, name or identifier), one per image, or None for the top class."""


@dataclass(frozen=True)
class ClassNames:
    """Readable names, and identifiers where a classifier has them.

    Args:
        names: one per class; a comma separates synonyms, as in `tench, Tinca tinca`.
        identifiers: one per class; the names themselves where there are no others.
    """

    names: tuple[str, ...]
    identifiers: tuple[str, ...]

    def resolve_targets(self, target: Target, count: int) -> NDArray[np.int64]:
        """One class per image.

        Raises:
            TargetError: there is no such class, or not one target per image.
        """
        if target is None:
            return np.full(count, TOP)
        if isinstance(target, np.ndarray):
            target = target.tolist()
        single = isinstance(target, str) or not isinstance(target, Iterable)
        words: list[object] = [target] * count if single else list(target)  # type: ignore[arg-type]
        if len(words) != count:
            raise TargetError(f"target: expected one class or {count}, got {len(words)}")
        return self.find_indices(words)

    def find_indices(self, words: Iterable[object]) -> NDArray[np.int64]:
        """Classes by name, identifier or index; whatever counts as a whole number is an index.

        Raises:
            TargetError: there is no such class.
        """
        found = []
        for word in words:
            if not isinstance(word, str | Integral) or isinstance(word, bool):
                raise TargetError(f"target: expected a class name or index, got {word!r}")
            found.append(self.find_index(word if isinstance(word, str) else int(word)))
        return np.array(found, dtype=np.int64)

    def find_index(self, word: str | int) -> int:
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
