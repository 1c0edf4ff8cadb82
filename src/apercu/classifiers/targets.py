"""Classes as a person names them → indices, one per image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import TypeAlias

import torch
from torch import Tensor

from apercu.classifiers import ClassNames
from apercu.errors import TargetError
from apercu.types import Targets

Target: TypeAlias = int | str | Sequence[int | str] | Tensor | None
"""A class for all images (index, name or identifier), one per image, or None for the top class."""


def resolve_targets(
    names: ClassNames, target: int | str | Sequence[int | str] | Tensor, count: int
) -> Targets:
    """One class per image.

    Raises:
        TargetError: there is no such class, or not one target per image.
    """
    if isinstance(target, Tensor):
        target = target.tolist()
    single = isinstance(target, str) or not isinstance(target, Iterable)
    words: list[object] = [target] * count if single else list(target)  # type: ignore[arg-type]
    if len(words) != count:
        raise TargetError(f"target: expected one class or {count}, got {len(words)}")
    return find_class_indices(names, words)


def find_class_indices(names: ClassNames, words: Iterable[object]) -> Targets:
    """Classes by name, identifier or index; whatever counts as a whole number is an index.

    Raises:
        TargetError: there is no such class.
    """
    found = []
    for word in words:
        if not isinstance(word, str | Integral) or isinstance(word, bool):
            raise TargetError(f"target: expected a class name or index, got {word!r}")
        exact = word if isinstance(word, str) else int(word)
        found.append(names.index_of(exact))
    return torch.tensor(found)
