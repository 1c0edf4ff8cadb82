"""Targets: the classes to explain, resolved to one index per image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apercu.classifiers.names import ClassNames
from apercu.errors import TargetError
from apercu.types import Images, LogitsFn, Targets

ClassChoice: TypeAlias = int | str | Sequence[int | str] | Tensor | NDArray[Any]
"""One class for all images (its index, name or identifier), or one class per image."""
Target: TypeAlias = ClassChoice | None
"""A choice of classes, or None for the predicted class of each image."""
TOP = -1
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
        if isinstance(target, Tensor) and target.shape == (len(images),):
            return target.to(images.device)
        with torch.no_grad():
            names = ClassNames.make_numbered(classifier(images[:1]).shape[1])
    return resolve_targets(names, target, len(images)).to(images.device)


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
    single = isinstance(target, str) or not isinstance(target, Iterable)
    words: list[object] = [target] * count if single else list(target)  # type: ignore[arg-type]
    if len(words) != count:
        raise TargetError(f"target: expected one class or {count}, got {len(words)}")
    return find_class_indices(names, words)


def find_class_indices(names: ClassNames, words: Iterable[object]) -> Targets:
    """Return the indices of classes that are given by name, identifier or index.

    Raises:
        TargetError: there is no such class.
    """
    indices = []
    for word in words:
        if not isinstance(word, str | Integral) or isinstance(word, bool):
            raise TargetError(f"target: expected a class name or index, got {word!r}")
        indices.append(names.find_index(word if isinstance(word, str) else int(word)))
    return torch.tensor(indices)
