"""Class names, found by the words that people type, and one class per image.

The rules and the messages are those of `apercu.classifiers.names`, which needs PyTorch; the tests
of apercu compare both.
"""

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
"""The index by which a graph understands the class predicted most."""

Target: TypeAlias = int | str | Sequence[int | str] | NDArray[Any] | None
"""A class for all images (index, name or identifier), one per image, or None for the top class."""
_WORDS = {
    "all": "; only apercu explain takes all classes of an image at once",
    "predicted": "; only apercu explain and the server take all predicted classes",
    "top": "; in Python None is the predicted class",
}
"""What words mean that are no classes here, as they are elsewhere."""


@dataclass(frozen=True)
class ClassNames:
    """Readable names of classes, and identifiers where a classifier has them.

    Attributes:
        names: one name per class; a comma separates synonyms, as in `tench, Tinca tinca`.
        identifiers: one identifier per class; the names themselves where there are no others.
    """

    names: tuple[str, ...]
    identifiers: tuple[str, ...]

    def resolve_targets(self, target: Target, count: int) -> NDArray[np.int64]:
        """Return the index of one class per image; `TOP` for the class predicted most.

        Raises:
            TargetError: there is no such class, or not one target per image.
        """
        if target is None:
            return np.full(count, TOP)
        if isinstance(target, np.ndarray):
            target = target.tolist()
        words: list[object]
        if isinstance(target, str) or not isinstance(target, Iterable):
            words = [target] * count
        else:
            words = list(target)
        if len(words) != count:
            raise TargetError(f"target: expected one class or {count}, got {len(words)}")
        return self.find_indices(words)

    def find_indices(self, words: Iterable[object]) -> NDArray[np.int64]:
        """Return the indices of classes by name, identifier or index of any integral type.

        Raises:
            TargetError: there is no such class.
        """
        indices = []
        for word in words:
            if not isinstance(word, str | Integral) or isinstance(word, bool):
                raise TargetError(f"target: expected a class name or index, got {word!r}")
            indices.append(self.find_index(word if isinstance(word, str) else int(word)))
        return np.array(indices, dtype=np.int64)

    def find_index(self, word: str | int) -> int:
        """Return the index of a class by its name, synonym, identifier or index, in any case.

        A name has priority over an index, so that the class "3" of a digit classifier is found.

        Raises:
            TargetError: no class has this name, or several have it.
        """
        if isinstance(word, int):
            return self._check_index(word)
        matches = self._find_by_name(word)
        if len(matches) == 1:
            return matches[0]
        if matches:
            indices = ", ".join(map(str, matches))
            raise TargetError(f"target: {word!r} names the classes {indices}; give the index")
        if re.fullmatch(r"-?[0-9]{1,9}", word.strip()):
            return self._check_index(int(word))
        synonyms = (synonym for name in self.names for synonym in _split_synonyms(name))
        words = [*self.names, *self.identifiers, *synonyms]
        suggestion = _WORDS.get(word) or suggest_nearest(word, words)
        raise TargetError(f"target: no class is called {word!r}{suggestion}")

    def _find_by_name(self, word: str) -> list[int]:
        """Return the classes with this whole name or identifier, else those with this synonym.

        Of each, those written with the same capital letters come before those in another case.
        """
        word, rows = word.strip(), list(zip(self.names, self.identifiers, strict=True))
        synonyms = [_split_synonyms(name) for name in self.names]
        for words in (rows, synonyms):
            for fold in (str, str.casefold):
                matches = [i for i, each in enumerate(words) if fold(word) in map(fold, each)]
                if matches:
                    return matches
        return []

    def _check_index(self, index: int) -> int:
        if not 0 <= index < len(self.names):
            raise TargetError(
                f"target: expected a class index from 0 to {len(self.names) - 1}, got {index}"
            )
        return index


def _split_synonyms(name: str) -> list[str]:
    return [synonym.strip() for synonym in name.split(",")]
