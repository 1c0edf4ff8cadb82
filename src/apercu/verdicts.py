"""Whether an answer may be believed: what a guard says of one image, and how its numbers are read.

Guards compute the numbers (`apercu.guard`); an exported graph gives the same ones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from apercu.types import Images, Logits, Maps

Question: TypeAlias = Literal["tampered", "unknown"]
"""What is asked of an image: did somebody change it, or did the classifier never learn its kind?"""
QUESTIONS: Final[tuple[Question, ...]] = ("tampered", "unknown")
COLUMNS: Final = (*QUESTIONS, "confidence")
"""What the first columns of a verdict hold; the standardised signals follow."""
CANNOT_JUDGE: Final = "it cannot be judged: its signals are no finite numbers"
DIGITS: Final = 4
"""Decimal places in records."""
RANK_ERROR: Final = 1e-6
"""Largest rounding error of a rank, which is a float32."""


TRUST: Final = "trust"
"""Name of the output of an exported graph that holds the verdicts."""
NO_GUARD: Final = "none"
"""What is typed instead of a guard's folder in order to leave out the guard of a card."""
LEAVE_OUT: Final = f'leave it out with --guard {NO_GUARD} (in Python guard="{NO_GUARD}")'
"""How a person goes on without the guard that a card names."""
GUARD_FOLDER: Final = "guard"
"""Folder of a guard beside the card of its classifier, where it is copied there."""
GUARD_FILES: Final = ("guard.json", "guard.safetensors")
"""Files of the folder of a guard: what it is, and what it has learnt."""


class Trust(BaseModel):
    """Whether the answer on one image may be believed.

    Attributes:
        tampered: fraction of clean images that look less tampered with, in [0, 1]; None where the
            guard cannot judge.
        unknown: fraction of clean images that look less unknown to the classifier.
        confidence: calibrated probability that the prediction is right, if the image is clean;
            None for a regression, and where neither labels nor a temperature on the card
            calibrated it.
        alarms: the questions whose fraction is above the threshold, `VerdictFormat.limit`.
        why: one phrase for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    tampered: float | None
    unknown: float | None
    confidence: float | None
    alarms: tuple[Question, ...] = ()
    why: str

    @property
    def can_judge(self) -> bool:
        """Whether the guard could judge the image."""
        return self.tampered is not None

    @property
    def is_good(self) -> bool:
        """Whether the guard could judge the image, and raises no alarm."""
        return self.can_judge and not self.alarms

    @property
    def line(self) -> str:
        """What a terminal or a notebook says of the image."""
        if not self.can_judge:
            return f"trust: {self.why}"
        sign = "ALARM, " if self.alarms else ""
        sure = "" if self.confidence is None else f"; confidence {self.confidence:.0%}"
        return f"trust: {sign}{self.why}{sure}"

    def to_record(self) -> dict[str, Any]:
        """Return the same as JSON can hold it, with rounded numbers."""
        content = self.model_dump(mode="json")
        numbers = {name: content[name] for name in COLUMNS if content[name] is not None}
        return content | {name: round(number, DIGITS) for name, number in numbers.items()}


class SignalWords(BaseModel):
    """What one signal of a guard speaks for.

    Attributes:
        name: name of the signal.
        question: what a high value speaks for.
        phrase: what a high value means, as the end of a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    question: Question
    phrase: str


def count_below_alarm(false_alarms: float, held_out: int) -> int:
    """Return how many clean images an image must exceed in order to raise an alarm.

    A further clean image exceeds each number of them, from none to all, with the same probability,
    1 / (`held_out` + 1); so it raises an alarm with a probability of at most `false_alarms`.

    Args:
        false_alarms: fraction of clean images that may raise an alarm.
        held_out: number of clean images that were held out.

    Returns:
        The number of images.

    >>> count_below_alarm(0.01, 100), count_below_alarm(0.2, 100), count_below_alarm(0.05, 25)
    (100, 81, 25)
    """
    return math.ceil(round((held_out + 1) * (1 - false_alarms), 6))


class VerdictFormat(BaseModel):
    """How the numbers of a guard are read.

    Attributes:
        signals: the signals, in the order of the columns after `COLUMNS`.
        false_alarms: fraction of clean images that may raise an alarm, for each question.
        calibrated: whether confidences were calibrated, by labels or by the card's temperature.
        held_out: number of clean images that ranks are fractions of; None in older exports.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    signals: tuple[SignalWords, ...] = Field(min_length=1)
    false_alarms: float = Field(gt=0, lt=0.5)
    calibrated: bool
    held_out: int | None = Field(None, ge=1)

    @property
    def limit(self) -> float:
        """The rank above which a question raises its alarm.

        It lies between two ranks that occur, so that no rounding error decides.
        """
        if self.held_out is None:
            return 1 - self.false_alarms + RANK_ERROR
        return (count_below_alarm(self.false_alarms, self.held_out) - 0.5) / self.held_out

    def read(self, row: Sequence[float]) -> Trust:
        """Return what the numbers of one image mean.

        Args:
            row: a rank for each question, the confidence, and the standardised signals.

        Returns:
            The verdict; without numbers where a signal is no finite number.
        """
        if not all(map(math.isfinite, row)):
            return Trust(tampered=None, unknown=None, confidence=None, why=CANNOT_JUDGE)
        ranks = dict(zip(COLUMNS, row, strict=False))
        alarms = tuple(question for question in QUESTIONS if ranks[question] > self.limit)
        reasons = [f"{question}: {self._name_reason(question, row)}" for question in alarms]
        return Trust(
            tampered=ranks["tampered"],
            unknown=ranks["unknown"],
            confidence=ranks["confidence"] if self.calibrated else None,
            alarms=alarms,
            why="; ".join(reasons) or f"like {1 - self.false_alarms:.0%} of the clean images",
        )

    def _name_reason(self, question: Question, row: Sequence[float]) -> str:
        """Return the phrase of the signal of a question that is furthest from what is usual."""
        signals = zip(row[len(COLUMNS) :], self.signals, strict=True)
        values = {words.phrase: value for value, words in signals if words.question == question}
        return max(values, key=values.__getitem__)


class PassJudge(ABC):
    """Judges the pass that somebody made on images; see `apercu.guard.Guard`."""

    @abstractmethod
    def judge_pass(
        self,
        images: Images,
        logits: Logits,
        features: list[Tensor],
        masks: Maps | None = None,
        *,
        shows_classifier: bool = False,
    ) -> list[Trust]:
        """Return whether the predictions of one pass may be believed.

        Args:
            images: prepared images, `batch × channels × height × width`.
            logits: logits of the classifier, `batch × classes`.
            features: what the encoder of the explainer gave besides.
            masks: masks of the predicted classes, `batch × height × width`; None where they were
                not made.
            shows_classifier: whether the features are those of the classifier's own layers; see
                `Predictor.shows_classifier`.

        Returns:
            One verdict per image.
        """


GuardChoice: TypeAlias = str | Path | PassJudge | None
"""A guard or its folder, `none`, or None for the one that the card of the classifier names."""
