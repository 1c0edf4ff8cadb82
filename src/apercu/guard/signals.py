"""The signals of a guard: each is one number per image, high where it is unlike clean images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers.network import Network
from apercu.classifiers.outputs import Output
from apercu.guard.summaries import (
    Observation,
    average_features,
    measure_certainty,
    measure_energy,
    measure_label_certainty,
    measure_label_uncertainty,
    measure_uncertainty,
    summarise_colour_noise,
    summarise_contrast,
    summarise_explanation,
    summarise_noise,
    summarise_value,
)
from apercu.statistics import build_gaussian, shrink_covariance
from apercu.types import Scores
from apercu.verdicts import Question

SummaryFn: TypeAlias = Callable[[Observation], Float[Tensor, "batch numbers"]]


@dataclass(frozen=True)
class SignalKind:
    """One kind of signal.

    Attributes:
        name: name of the signal, as in a guard's file and in its verdicts.
        question: what a high value speaks for.
        summarise: computes its numbers from an observation.
        phrase: what a high value means, as the end of a sentence.
        is_score: whether the one number of the summary is the score itself; else the score is the
            distance from the numbers of clean images.
    """

    name: str
    question: Question
    summarise: SummaryFn
    phrase: str
    is_score: bool = False


def list_kinds(observation: Observation, network: Network) -> list[SignalKind]:
    """Return the signals that an observation and a classifier allow.

    Args:
        observation: what one pass gives on some images.
        network: the network of the classifier, which says what its images and its numbers are; the
            noise of raw counts has no scale.

    Returns:
        The signals, in the order of a guard's file.
    """
    kinds = []
    if not network.input.takes_raw_counts and min(observation.images.shape[2:]) >= 5:
        kinds.append(NOISE)
        if observation.images.shape[1] > 1:
            kinds.append(COLOUR_NOISE)
    kinds += list_logit_kinds(network.meaning)
    if observation.features:
        kinds += [DEEP_FEATURES, FINE_CONTRAST]
        if len(observation.features) > 1:
            kinds.append(SECOND_CONTRAST)
    if observation.masks is not None:
        kinds.append(EXPLANATION)
    return kinds


def list_logit_kinds(output: Output) -> list[SignalKind]:
    """Return the signals of the logits, one for each question, by what a network's numbers mean.

    Probabilities have no energy. Where each class is decided by itself, an image without any class
    is no vague one. A value in the middle of its range is no uncertain one.
    """
    if output.name == "value":
        return [SHIFTED_VALUE, UNUSUAL_VALUE]
    if output.decision.is_multiple:
        return [LABEL_CERTAINTY, LABEL_UNCERTAINTY]
    return [CERTAINTY, UNCERTAINTY if output.holds_probabilities else ENERGY]


NOISE = SignalKind(
    "noise",
    "tampered",
    summarise_noise,
    "its finest noise is unlike that of clean images",
)
COLOUR_NOISE = SignalKind(
    "colour_noise",
    "tampered",
    summarise_colour_noise,
    "the noise of its colours is unlike that of clean images",
)
CERTAINTY = SignalKind(
    "certainty",
    "tampered",
    lambda observation: measure_certainty(observation.logits)[:, None],
    "the classifier is more certain than of clean images",
    is_score=True,
)
DEEP_FEATURES = SignalKind(
    "deep_features",
    "tampered",
    lambda observation: average_features(observation.features[-1]),
    "its last features are unlike those of clean images",
)
EXPLANATION = SignalKind(
    "explanation",
    "tampered",
    summarise_explanation,
    "its explanation is unlike those of clean images",
)
ENERGY = SignalKind(
    "energy",
    "unknown",
    lambda observation: measure_energy(observation.logits)[:, None],
    "the logits of all classes are lower than for clean images",
    is_score=True,
)
LABEL_CERTAINTY = SignalKind(
    "label_certainty",
    "tampered",
    lambda observation: measure_label_certainty(observation.logits)[:, None],
    "the classifier is more certain of a class than for clean images",
    is_score=True,
)
SHIFTED_VALUE = SignalKind(
    "shifted_value",
    "tampered",
    summarise_value,
    "its value is unlike those of clean images",
)
UNCERTAINTY = SignalKind(
    "uncertainty",
    "unknown",
    lambda observation: measure_uncertainty(observation.logits)[:, None],
    "the classifier is less sure than of clean images",
    is_score=True,
)
LABEL_UNCERTAINTY = SignalKind(
    "label_uncertainty",
    "unknown",
    lambda observation: measure_label_uncertainty(observation.logits)[:, None],
    "the classifier is less sure of its classes than for clean images",
    is_score=True,
)
UNUSUAL_VALUE = SignalKind(
    "unusual_value",
    "unknown",
    summarise_value,
    "its value is unlike those of clean images",
)
FINE_CONTRAST = SignalKind(
    "fine_contrast",
    "unknown",
    lambda observation: summarise_contrast(observation.features[0]),
    "its finest textures are unlike those of clean images",
)
SECOND_CONTRAST = SignalKind(
    "second_contrast",
    "unknown",
    lambda observation: summarise_contrast(observation.features[1]),
    "its textures are unlike those of clean images",
)
KINDS: Mapping[str, SignalKind] = {
    kind.name: kind
    for kind in (
        *(NOISE, COLOUR_NOISE, CERTAINTY, DEEP_FEATURES, EXPLANATION),
        *(ENERGY, FINE_CONTRAST, SECOND_CONTRAST, UNCERTAINTY),
        *(LABEL_CERTAINTY, LABEL_UNCERTAINTY, SHIFTED_VALUE, UNUSUAL_VALUE),
    )
}
"""All kinds of signals by name."""


class Signal(nn.Module, ABC):
    """A fitted signal: summaries of a batch → one number per image.

    Args:
        kind: what is summarised.
    """

    def __init__(self, kind: SignalKind) -> None:
        super().__init__()
        self.kind = kind

    @abstractmethod
    def measure(self, summary: Float[Tensor, "batch numbers"]) -> Scores:
        """Return one number per image; higher is less like clean images."""

    def forward(self, observation: Observation) -> Scores:
        """Return the number of each image of an observation."""
        return self.measure(self.kind.summarise(observation).float())


@final
class PlainSignal(Signal):
    """A summary of one number, which is the score."""

    def measure(self, summary: Float[Tensor, "batch numbers"]) -> Scores:
        return summary[:, 0]


@final
class GaussianSignal(Signal):
    """The logarithm of the Mahalanobis distance from the summaries of clean images.

    Args:
        kind: what is summarised.
        mean: mean of the summaries.
        whitening: matrix after which clean summaries have no correlation and variance 1.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, kind: SignalKind, mean: Tensor, whitening: Tensor) -> None:
        super().__init__(kind)
        self.register_buffer("mean", mean.float())
        self.register_buffer("whitening", whitening.float())

    @classmethod
    def fit(cls, kind: SignalKind, summaries: Float[Tensor, "images numbers"]) -> GaussianSignal:
        """Fit the Gaussian, with a covariance that is shrunk after Ledoit and Wolf.

        Args:
            kind: what is summarised.
            summaries: summaries of clean images.

        Returns:
            The signal.
        """
        numbers = summaries.double()
        mean, scale = numbers.mean(0), numbers.std(0).clamp(min=1e-6)
        centred = (numbers - mean) / scale
        fourth = float(centred.square().sum(1).square().sum())
        covariance = shrink_covariance(centred.T @ centred / len(centred), fourth, len(centred))
        whitening = build_gaussian(torch.zeros_like(mean), covariance).whitening
        return cls(kind, mean, whitening / scale)

    def measure(self, summary: Float[Tensor, "batch numbers"]) -> Scores:
        distances = F.linear(summary - self.mean, self.whitening).square().mean(1)
        return (distances + 1e-6).log() / 2


def fit_signal(kind: SignalKind, summaries: Float[Tensor, "images numbers"]) -> Signal:
    """Return a signal that is fitted to the summaries of clean images."""
    return PlainSignal(kind) if kind.is_score else GaussianSignal.fit(kind, summaries)
