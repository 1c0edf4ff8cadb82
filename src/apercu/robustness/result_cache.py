"""What one job found of every image, kept as a file, so that no attack is made twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError

from apercu.io import write_file
from apercu.robustness.filters.base import ADDED_LATER

FOLDER = "cells"


class AttackResult(BaseModel):
    """Every image of the sample, in its order.

    Attributes:
        top1: behind each filter, whether the true class is seen.
        top5: whether it is among the five that are seen most.
        linf, l2, l0: size of the change, see `apercu.robustness.measures.compute_norms`.
        rank_correlation: of the maps before and after; empty without an explainer.
        overlap: of the same maps.
        queries: decisions that were asked for; empty where an attack does not count them.
        stuck: whether the attack did not arrive, and the honest image has no slope to climb; empty
            for an attack that climbs none.
    """

    model_config = ConfigDict(extra="forbid")
    top1: dict[str, list[bool]] = {}
    top5: dict[str, list[bool]] = {}
    linf: list[float] = []
    l2: list[float] = []
    l0: list[float] = []
    rank_correlation: list[float] = []
    overlap: list[float] = []
    queries: list[float] = []
    stuck: list[bool] = []

    def get_values(self, name: str) -> Float[np.ndarray, " images"]:
        """One of the lists of numbers."""
        return np.asarray(getattr(self, name), dtype=float)

    def measure_correctness(
        self, behind: str, metric: str = "top1"
    ) -> Float[np.ndarray, " images"]:
        """1 where the classifier is right behind a filter."""
        return np.asarray(getattr(self, metric)[behind], dtype=float)


@dataclass(frozen=True)
class ResultCache:
    """The finished jobs of a folder.

    Args:
        folder: where they are kept.
        subject: what they all depend on: classifier, images, explainer.
    """

    folder: Path
    subject: str

    def load(self, key: str) -> AttackResult | None:
        """What was found before; None where nothing was, or it cannot be read."""
        try:
            return AttackResult.model_validate_json(
                self._make_path(key).read_text(encoding="utf-8")
            )
        except (OSError, ValidationError):
            return None

    def save(self, key: str, found: AttackResult) -> None:
        """Keeps what was found.

        Raises:
            OutputError: the folder cannot be written.
        """
        write_file(self._make_path(key), json.dumps(found.model_dump()))

    def _make_path(self, key: str) -> Path:
        digest = hashlib.sha256(f"{self.subject}\n{key}".encode()).hexdigest()[:20]
        return self.folder / FOLDER / f"{digest}.json"


def make_cache_key(value: object) -> str:
    """A frozen value as it prints, without settings that are later than cells and have their
    default (see `apercu.robustness.filters.base.ADDED_LATER`)."""
    if not is_dataclass(value):
        return repr(value)
    shown = [
        f"{one.name}={getattr(value, one.name)!r}"
        for one in fields(value)
        if not (one.metadata == ADDED_LATER and getattr(value, one.name) == one.default)
    ]
    return f"{type(value).__qualname__}({', '.join(shown)})"
