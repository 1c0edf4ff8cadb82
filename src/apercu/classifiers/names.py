"""Class names, from a list, a dictionary or a file, and the targets that people name by them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Number
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apercu.errors import ClassifierError, TargetError, shorten, suggest_nearest
from apercu.types import Images, LogitsFn, Targets

ClassWord: TypeAlias = str | SupportsIndex
"""One class, by name, identifier or index; the index is a whole number of any type."""


_WORDS = {
    "all": "; only apercu explain takes all classes of an image at once",
    "predicted": "; only apercu explain and the server take all predicted classes",
    "top": "; in Python None is the predicted class",
}
"""What words mean that are no classes here, as they are elsewhere."""


@dataclass(frozen=True)
class ClassNames:
    """Readable names of classes, and identifiers (WordNet's, say) where a classifier has them.

    Args:
        names: one name per class; a comma separates synonyms, as in `tench, Tinca tinca`.
        identifiers: one identifier per class; the names themselves where there are no others.
    """

    names: tuple[str, ...]
    identifiers: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], identifiers: Iterable[str] | None = None) -> ClassNames:
        """Return class names with these identifiers, or without identifiers of their own."""
        names = tuple(names)
        return cls(names, names if identifiers is None else tuple(identifiers))

    @classmethod
    def make_numbered(cls, count: int, kind: str = "class") -> ClassNames:
        """Return `class 0`, `class 1` …, for a classifier that has no names."""
        return cls.of(f"{kind} {index}" for index in range(count))

    @classmethod
    def read(cls, path: str | Path) -> ClassNames:
        """Read the names of a file, in the order of the logits.

        One class per line: `name`, `identifier<TAB>name`, or a number from 0 on and a name, in any
        order; also as CSV. A JSON file may hold what `collect` takes: a list, or a dictionary.

        Raises:
            ClassifierError: the file is missing, no text or empty, only some lines have a tab, or
                it says no order of the classes.
        """
        from apercu.images.formats.class_list import ClassRow, read_class_list

        content = read_class_list(path)
        if not (isinstance(content, list) and content and isinstance(content[0], ClassRow)):
            return cls.collect(content, f"classes {path}")
        return cls.of((row.name for row in content), (row.identifier for row in content))

    @classmethod
    def collect(cls, classes: Iterable[Any], subject: str) -> ClassNames:
        """Return class names of a list or a dictionary, in the order of the logits.

        Args:
            classes: names in order; or `{index: name}`, as the `id2label` of transformers; or
                `{name: index}`, as the `class_to_idx` of torchvision. Indices of the first kind may
                be text, as in JSON. In place of a name, a pair is the identifier and the name.
            subject: where they come from, for the error.

        Returns:
            The names.

        Raises:
            ClassifierError: a set, which has no order; a dictionary whose indices are not all
                numbers from 0 on; or a name that is neither text nor a number.

        >>> ClassNames.collect({"e": 1, "b": 0}, "classes").names
        ('b', 'e')
        """
        if isinstance(classes, set | frozenset):
            raise ClassifierError(f"{subject}: a set has no order; pass a list of names")
        rows = list(_sort_by_index(classes, subject) if isinstance(classes, Mapping) else classes)
        pairs = [_read_pair(row) for row in rows]
        for row, pair in zip(rows, pairs, strict=True):
            if not all(isinstance(part, str) for part in pair):
                raise ClassifierError(f"{subject}: expected names of classes, got {shorten(row)}")
        return cls.of((name for _, name in pairs), (identifier for identifier, _ in pairs))

    def write(self, path: str | Path) -> None:
        """Write `identifier<TAB>name`, one class per line; as JSON where it would be sorted."""
        from apercu.images.formats.class_list import find_order

        rows = list(zip(self.identifiers, self.names, strict=True))
        order = find_order(self.identifiers)
        if order in (None, sorted(order or [])):
            text = "".join(f"{identifier}\t{name}\n" for identifier, name in rows)
        else:
            text = json.dumps(rows, ensure_ascii=False)
        Path(path).write_text(text, encoding="utf-8")

    @property
    def has_identifiers(self) -> bool:
        """Whether there are identifiers besides the names."""
        return self.identifiers != self.names

    @property
    def plain(self) -> bool:
        """Whether there are none; the former name of the opposite of `has_identifiers`."""
        return not self.has_identifiers

    @cached_property
    def short_names(self) -> tuple[str, ...]:
        """One name per class for lines and captions, each that of one class only.

        It is the first synonym where no other class begins with it, and else the whole name; where
        several classes have the same whole name, with the index.

        >>> ClassNames.of(["tabby, tabby cat", "car, red", "car, blue", "hen", "hen"]).short_names
        ('tabby', 'car, red', 'car, blue', 'hen (3)', 'hen (4)')
        """
        first = [_split_synonyms(name)[0] for name in self.names]
        beginnings, whole = Counter(map(str.casefold, first)), Counter(self.names)
        short_names = []
        for index, (short, name) in enumerate(zip(first, self.names, strict=True)):
            if short and beginnings[short.casefold()] == 1:
                short_names.append(short)
            elif name.strip() and whole[name] == 1:
                short_names.append(name)
            else:
                short_names.append(f"{name} ({index})".lstrip())
        return tuple(short_names)

    def find_index(self, word: object) -> int:
        """Return the index of a class by its name, synonym, identifier or index, in any case.

        A name has priority over an index, so that the class "3" of a digit classifier is found.
        An index is a whole number of any type, NumPy's and PyTorch's included.

        Raises:
            TargetError: no class has this name, or several have it; or the word is neither text nor
                a whole number.
        """
        word = read_class_word(word)
        if isinstance(word, int):
            return self._check_index(word)
        matches = self.find_by_name(word)
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

    def find_label(self, label: object) -> int:
        """Return the index of the class that the label of an image names.

        A whole number counts the classes from 0, unless they are called by other numbers: then it
        is a name, written in any way. As text it is a name wherever classes are called by numbers.

        Raises:
            TargetError: as in `find_index`; or classes are called by numbers, and none by this one.

        >>> ClassNames.of(["1", "2", "5"]).find_label(5), ClassNames.of(["a", "b"]).find_label(1)
        (2, 1)
        >>> ClassNames.of(["1.0", "2.0"]).find_label("1")  # as pandas wrote it before
        0
        """
        word, by_number = read_class_word(label), self._by_number
        if isinstance(word, str) and len(self.find_by_name(word)) == 1:
            return self.find_index(word)
        number = read_whole_number(str(word))
        counts = isinstance(word, int) and by_number.keys() == set(range(len(self.names)))
        if not by_number or number is None or counts:
            return self.find_index(word)
        if number not in by_number:
            raise TargetError(f"target: no class is called {word}")
        return by_number[number]

    @cached_property
    def _by_number(self) -> dict[int, int]:
        """The index of each class by the number it is called by; empty if any is called else."""
        numbers = [read_whole_number(name) for name in self.names]
        by_number = {number: i for i, number in enumerate(numbers) if number is not None}
        return by_number if len(by_number) == len(self.names) else {}

    def find_by_name(self, word: str) -> list[int]:
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


def read_class_word(word: object) -> str | int:
    """Return one class as text or as an index; a whole number of NumPy or PyTorch is an index, too.

    Raises:
        TargetError: it is neither text nor a whole number, such as a list.
    """
    if isinstance(word, Tensor | np.ndarray | np.generic) and word.ndim == 0:
        word = word.item()
    if isinstance(word, Integral) and not isinstance(word, bool):
        return int(word)
    if not isinstance(word, str):
        raise TargetError(f"target: expected a class name or index, got {shorten(word)}")
    return word


def read_whole_number(word: str) -> int | None:
    """Return the whole number that a text is, such as `2`, `02` or `2.0`; None for other texts.

    >>> read_whole_number("2.0"), read_whole_number("-1"), read_whole_number("2.5")
    (2, -1, None)
    """
    is_whole = re.fullmatch(r"-?[0-9]{1,9}(\.0+)?", word.strip())
    return int(word.partition(".")[0]) if is_whole else None


def read_id2label(config: object) -> ClassNames | None:
    """Return the names in a configuration of transformers; None where they are only numbered."""
    labels = getattr(config, "id2label", None)
    if not isinstance(labels, Mapping) or not labels:
        return None
    names = ClassNames.collect(labels, "id2label of its configuration")
    numbered = tuple(f"LABEL_{index}" for index in range(len(labels)))
    return None if names.names == numbered else names


def _sort_by_index(classes: Mapping[Any, Any], subject: str) -> list[Any]:
    """Return the names of a dictionary from names to indices, or from indices to names."""
    rows = [(value, key) for key, value in classes.items()]
    if not all(_is_index(value) and isinstance(key, str) for value, key in rows):
        rows = [(_read_index(key), value) for key, value in classes.items()]
    if any(not _is_index(index) for index, _ in rows):
        raise ClassifierError(
            f"{subject}: expected a list of names, {{index: name}} or {{name: index}}, got "
            f"{shorten(dict(classes))}"
        )
    indices = sorted(index for index, _ in rows)
    if indices != list(range(len(rows))):
        raise ClassifierError(
            f"{subject}: expected each index from 0 to {len(rows) - 1} once, got "
            f"{shorten(indices)}; pass a list of names"
        )
    return [name for _, name in sorted(rows, key=lambda row: row[0])]


def _read_pair(row: Any) -> tuple[Any, Any]:
    """Return the identifier and the name of a class; twice None where they cannot be read."""
    if isinstance(row, list | tuple):
        return (row[0], row[1]) if len(row) == 2 else (None, None)
    return (str(row), str(row)) if isinstance(row, str | Number) else (None, None)


def _is_index(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _read_index(key: object) -> object:
    return int(key) if isinstance(key, str) and re.fullmatch("[0-9]{1,9}", key) else key


def _split_synonyms(name: str) -> list[str]:
    return [synonym.strip() for synonym in name.split(",")]


ClassChoice: TypeAlias = ClassWord | Sequence[ClassWord] | Tensor | NDArray[Any]
"""One class for all images (its index, name or identifier), or one class per image."""
Target: TypeAlias = ClassChoice | None
"""A choice of classes, or None for the predicted class of each image."""
TOP_INDEX = -1
"""The index that stands for the predicted class of each image, in graphs and engines."""


def choose_targets(classifier: LogitsFn, images: Images, target: Target) -> Targets:
    """Return the index of one class per image; the predicted classes where no target is given.

    Args:
        classifier: a classifier; a plain function of logits has no names, only indices.
        images: the images, `batch × channels × height × width`.
        target: one class for all images or one per image, as indices or names; None for the class
            that is predicted most.

    Returns:
        Class indices on the device of the images, one per image.

    Raises:
        TargetError: there is no such class, or not one target per image.
    """
    if target is None:
        with torch.no_grad():
            return classifier(images).argmax(1)
    names = getattr(classifier, "names", None)
    if not isinstance(names, ClassNames):
        if isinstance(target, Tensor) and _are_indices(target, len(images)):
            return target.to(images.device)
        with torch.no_grad():
            names = ClassNames.make_numbered(classifier(images[:1]).shape[1])
    return resolve_targets(names, target, len(images)).to(images.device)


def _are_indices(target: Tensor, count: int) -> bool:
    """Whether a tensor holds so many whole numbers."""
    is_whole = not (target.is_floating_point() or target.dtype == torch.bool)
    return is_whole and target.shape == (count,)


def resolve_targets(names: ClassNames, target: ClassChoice, count: int) -> Targets:
    """Return the index of one class per image.

    Args:
        names: the classes of the classifier.
        target: one class for all images, or one class per image.
        count: the number of images.

    Returns:
        Class indices, one per image.

    Raises:
        TargetError: there is no such class, or not one target per image.
    """
    if isinstance(target, Tensor | np.ndarray):
        target = target.tolist()
    words: list[object]
    if isinstance(target, str) or not isinstance(target, Iterable):
        words = [target] * count
    else:
        words = list(target)
    if len(words) != count:
        raise TargetError(f"target: expected one class or {count}, got {len(words)}")
    return find_class_indices(names, words)


def find_class_indices(names: ClassNames, words: Iterable[object]) -> Targets:
    """Return the indices of classes that are given by name, identifier or index.

    Raises:
        TargetError: there is no such class.
    """
    return torch.tensor([names.find_index(word) for word in words])
