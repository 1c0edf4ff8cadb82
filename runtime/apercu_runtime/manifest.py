"""Read and check `explainer.json`, which describes an exported folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apercu_runtime.errors import ConfigError, RunError, suggest_nearest
from apercu_runtime.names import ClassNames

MANIFEST = "explainer.json"
VERSION = 1
"""Version of the manifests that can be read."""
LOGIT_RANGE = 4.0
"""Distance of the logits of the two ends of the range of a regression, as in apercu."""
MAX_SIDE, MAX_NUMBERS = 8192, 2**27
"""Largest side of an image, and most numbers of one."""
QUESTIONS = ("tampered", "unknown")
"""What is asked of an image: did somebody change it, or did the classifier never learn its kind?"""
VERDICT_COLUMNS = (*QUESTIONS, "confidence")
"""The first columns of a verdict."""
VERDICT_DIGITS = 4
RANK_ERROR = 1e-6
"""Largest rounding error of a rank, which is a float32."""
CANNOT_JUDGE = "it cannot be judged: its signals are no finite numbers"
PROGRAM = "program"
"""The role of a file that only PyTorch runs."""


@dataclass(frozen=True)
class OutputMeaning:
    """What the probabilities of a graph mean.

    Attributes:
        is_multiple: whether each class is decided by itself, so that several may be predicted.
        value_range: the low and the high value of a regression, whose classes are lower and
            higher; None for a classifier of classes.
    """

    is_multiple: bool = False
    value_range: tuple[float, float] | None = None

    def find_predicted(self, probabilities: NDArray[np.float32]) -> list[int] | None:
        """Return all predicted classes, the most probable first; None where it is always one."""
        if not self.is_multiple:
            return None
        order = np.argsort(-probabilities, kind="stable")
        return [int(index) for index in order if probabilities[index] >= 0.5]

    def find_value(self, probabilities: NDArray[np.float32]) -> float | None:
        """Return the value of a regression; None for a classifier of classes."""
        if self.value_range is None:
            return None
        low, high = self.value_range
        lower, higher = (max(float(p), 1e-38) for p in probabilities)
        return (low + high) / 2 + (high - low) / LOGIT_RANGE * math.log(higher / lower)


@dataclass(frozen=True)
class VerdictFormat:
    """How the output `trust` of a graph is read, as in apercu.

    Attributes:
        signals: the question and the phrase of each signal, in the order of the columns after the
            first three.
        false_alarms: fraction of clean images that may raise an alarm, for each question.
        calibrated: whether confidences were calibrated.
        held_out: number of clean images that ranks are fractions of; None in older exports.
    """

    signals: tuple[tuple[str, str], ...]
    false_alarms: float
    calibrated: bool
    held_out: int | None = None

    @property
    def limit(self) -> float:
        """The rank above which a question raises its alarm; between two ranks that occur."""
        if self.held_out is None:
            return 1 - self.false_alarms + RANK_ERROR
        exceeded = math.ceil(round((self.held_out + 1) * (1 - self.false_alarms), 6))
        return (exceeded - 0.5) / self.held_out

    def read(self, row: NDArray[np.float32]) -> dict[str, Any]:
        """Return what the numbers of one image mean.

        Args:
            row: a rank for each question, the confidence, and the standardised signals.

        Returns:
            `tampered` and `unknown`, the fractions of clean images that look less so, and the
            `confidence`, all None where a signal is no finite number; `alarms`, and a phrase `why`.
        """
        if not np.isfinite(row).all():
            empty = dict.fromkeys(VERDICT_COLUMNS)
            return {**empty, "alarms": [], "why": CANNOT_JUDGE}
        values = [round(float(value), VERDICT_DIGITS) for value in row[: len(VERDICT_COLUMNS)]]
        verdict = dict(zip(VERDICT_COLUMNS, values, strict=True))
        alarms = [q for q, value in zip(QUESTIONS, row, strict=False) if float(value) > self.limit]
        reasons = [f"{question}: {self._name_reason(question, row)}" for question in alarms]
        return {
            **verdict,
            "confidence": verdict["confidence"] if self.calibrated else None,
            "alarms": alarms,
            "why": "; ".join(reasons) or f"like {1 - self.false_alarms:.0%} of the clean images",
        }

    def _name_reason(self, question: str, row: NDArray[np.float32]) -> str:
        """Return the phrase of the signal of a question that is furthest from what is usual."""
        signals = zip(row[len(VERDICT_COLUMNS) :].tolist(), self.signals, strict=True)
        values = {phrase: value for value, (asked, phrase) in signals if asked == question}
        return max(values, key=values.__getitem__)


@dataclass(frozen=True)
class Manifest:
    """What an exported folder holds.

    Attributes:
        folder: the folder.
        kind: the kind of the explainer, `mask` or `counterpart`.
        channels: the number of channels of the images.
        size: the height and width of the images.
        counts: whether pixels may have any finite value, not only those in [0, 1].
        names: the names of the classes.
        files: the file name and SHA-256 of each graph, by role.
        output: what the probabilities mean.
        guard: how the output `trust` of the combined graph is read; None without a guard.
    """

    folder: Path
    kind: str
    channels: int
    size: tuple[int, int]
    counts: bool
    names: ClassNames
    files: Mapping[str, tuple[str, str]]
    output: OutputMeaning = OutputMeaning()
    guard: VerdictFormat | None = None

    def read_graph(self, role: str) -> bytes:
        """Read the bytes of a graph, and check that they are the exported ones.

        Raises:
            ConfigError: there is no graph of that role.
            RunError: its file is missing, or not the exported one.
        """
        graphs = [name for name in self.files if name != PROGRAM]
        if role not in graphs:
            raise ConfigError(
                f"graph: expected one of {', '.join(graphs)}, got {role}"
                f"{suggest_nearest(role, graphs)}"
            )
        name, expected = self.files[role]
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror}); export again") from None
        if hashlib.sha256(content).hexdigest() != expected:
            raise RunError(f"{path}: damaged, or not the graph that {MANIFEST} lists; export again")
        return content


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of an exported folder.

    Raises:
        RunError: it is missing, damaged, or of another version.
    """
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"{folder}: expected an exported explainer, found no {MANIFEST}; write one with "
            "`apercu export`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged ({error}); export again") from None
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise RunError(
            f"{path}: expected version {VERSION}, got {version}; install the apercu-runtime of the "
            "apercu that wrote it, or export again"
        )
    try:
        return _parse_manifest(Path(folder), content)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise RunError(f"{path}: damaged ({type(error).__name__}: {error}); export again") from None


def _parse_manifest(folder: Path, content: dict[str, Any]) -> Manifest:
    channels = int(content["input"]["channels"])
    height, width = map(int, content["input"]["size"])
    sides = (channels, height, width)
    if min(sides) < 1 or max(sides) > MAX_SIDE or math.prod(sides) > MAX_NUMBERS:
        raise ValueError(f"images of {channels} × {height} × {width} numbers")
    names = ClassNames(tuple(content["classes"]), tuple(content["identifiers"]))
    if len(names.names) != len(names.identifiers):
        raise ValueError("classes and identifiers differ in number")
    files = {}
    for role, entry in content["files"].items():
        if Path(entry["file"]).name != entry["file"]:
            raise ValueError(f"{entry['file']} leads out of the folder")
        files[role] = (str(entry["file"]), str(entry["sha256"]))
    return Manifest(
        folder=folder,
        kind=str(content["kind"]),
        channels=channels,
        size=(height, width),
        counts=content["input"]["range"] == "counts",
        names=names,
        files=files,
        output=_parse_output(content.get("output")),
        guard=_parse_guard(content.get("guard")),
    )


def _parse_guard(content: dict[str, Any] | None) -> VerdictFormat | None:
    if content is None:
        return None
    signals = tuple((str(each["question"]), str(each["phrase"])) for each in content["signals"])
    if not set(QUESTIONS) >= {question for question, _ in signals}:
        raise ValueError("a signal of no question")
    held_out = content.get("held_out")
    if held_out is not None and int(held_out) < 1:
        raise ValueError(f"{held_out} images that were held out")
    return VerdictFormat(
        signals,
        float(content["false_alarms"]),
        bool(content["calibrated"]),
        None if held_out is None else int(held_out),
    )


def _parse_output(content: dict[str, Any] | None) -> OutputMeaning:
    if content is None:
        return OutputMeaning()
    if content["name"] == "value":
        low, high = content["value_range"]
        return OutputMeaning(value_range=(float(low), float(high)))
    is_sigmoid = content["name"] in ("sigmoid", "sigmoid_probabilities")
    return OutputMeaning(is_multiple=is_sigmoid and content["columns"] != 1)
