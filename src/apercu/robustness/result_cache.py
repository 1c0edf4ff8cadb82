"""The result of a job for every image, stored in a file so that no attack is made twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from apercu.io import write_file
from apercu.robustness.filters.base import ADDED_LATER

FOLDER = "cells"


class AttackResult(BaseModel):
    """The result of one job for every image of the sample, in its order.

    Attributes:
        top1: whether the true class is predicted, behind each filter.
        top5: whether the true class is among the five most probable ones, behind each filter.
        linf, l2, l0: size of the change, see `apercu.robustness.curves.compute_norms`.
        rank_correlation: rank correlation of the maps before and after; empty without an explainer.
        overlap: IoU of the strongest parts of the same maps.
        queries: number of queries; empty where an attack does not count them.
        stuck: whether the attack failed and the clean image has no gradient to follow; empty for an
            attack that does not follow gradients.
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
        """Return one of the lists of numbers as an array."""
        return np.asarray(getattr(self, name), dtype=float)

    def measure_correctness(
        self, filter_name: str, metric: str = "top1"
    ) -> Float[np.ndarray, " images"]:
        """Return 1 where the classifier is correct behind a filter, else 0."""
        return np.asarray(getattr(self, metric)[filter_name], dtype=float)


@dataclass(frozen=True)
class ResultCache:
    """The results of the finished jobs in a folder.

    Args:
        folder: folder of the cache.
        subject: text on everything that all results depend on: classifier, images, explainer.
    """

    folder: Path
    subject: str

    def load(self, key: str) -> AttackResult | None:
        """Load the result of a job; None where there is no result, or it cannot be read."""
        try:
            return AttackResult.model_validate_json(self._make_path(key).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def save(self, key: str, result: AttackResult) -> None:
        """Save the result of a job.

        Raises:
            OutputError: the folder cannot be written.
        """
        write_file(self._make_path(key), json.dumps(result.model_dump()))

    def _make_path(self, key: str) -> Path:
        digest = hashlib.sha256(f"{self.subject}\n{key}".encode()).hexdigest()[:20]
        return self.folder / FOLDER / f"{digest}.json"


def format_cache_key(value: object) -> str:
    """Format a frozen value as it prints, without settings that were added later.

    Such settings (see `apercu.robustness.filters.base.ADDED_LATER`) are left out where they have
    their default, so that results from before stay valid.
    """
    if not is_dataclass(value):
        return repr(value)
    settings = [
        f"{field.name}={getattr(value, field.name)!r}"
        for field in fields(value)
        if not (field.metadata == ADDED_LATER and getattr(value, field.name) == field.default)
    ]
    return f"{type(value).__qualname__}({', '.join(settings)})"
