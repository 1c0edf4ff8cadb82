"""The verdict of a guard, as one traceable module: signals, their ranks, and a confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers.decisions import Decision
from apercu.guard.signals import KINDS, GaussianSignal, PlainSignal, Signal
from apercu.guard.summaries import Observation
from apercu.types import Logits, Scores
from apercu.verdicts import QUESTIONS, Question, count_below_alarm

NORMAL_QUARTILE = 0.6744897501960817
"""Upper quartile of the standard normal distribution."""
LEAST_SPREAD = 0.1
"""Smallest spread of a signal, as a fraction of the root mean square of what is above the median.

Where a quarter of the images has the same number, such as probabilities of exactly 1, the quartile
says nothing of the others, and one signal would drown all other ones.
"""
ROUNDING = 1e-5
"""Smallest spread, as a fraction of the median or of 1: differences below are rounding errors."""


@final
class GuardNetwork(nn.Module):
    """Fitted signals, with their values and ranks among clean images that were held out.

    The signals of a question are put together as the sum of the squares of the positive
    standardised values: one signal that is far off counts more than several that are a little off.

    Args:
        signals: the signals, in the order of the columns.
        decision: how logits become probabilities.
        images: number of clean images that were held out.

    Attributes:
        centre: median of each signal over clean images.
        spread: standard deviation of each signal above its median, from the upper quartile; at
            least `LEAST_SPREAD` and `ROUNDING`.
        ranks: sorted totals of clean images, one row per question.
        temperature: number by which logits are divided for the confidence.
    """

    centre: Tensor
    spread: Tensor
    ranks: Tensor
    temperature: Tensor

    def __init__(self, signals: Sequence[Signal], decision: Decision, images: int) -> None:
        super().__init__()
        self.signals = nn.ModuleList(signals)
        self.decision = decision
        self.kinds = tuple(signal.kind for signal in signals)
        self.register_buffer("centre", torch.zeros(len(signals)))
        self.register_buffer("spread", torch.ones(len(signals)))
        self.register_buffer("ranks", torch.zeros(len(QUESTIONS), images))
        self.register_buffer("temperature", torch.ones(()))
        for question in QUESTIONS:
            columns = torch.tensor(self.find_columns(question), dtype=torch.long)
            self.register_buffer(f"{question}_columns", columns, persistent=False)

    @classmethod
    def restore(
        cls, tensors: Mapping[str, Tensor], names: Sequence[str], decision: Decision
    ) -> GuardNetwork:
        """Make the network of its tensors again.

        Args:
            tensors: the state of a network, by name.
            names: names of its signals, in order.
            decision: how logits become probabilities.

        Returns:
            The network.

        Raises:
            KeyError: a tensor or a signal is missing.
            RuntimeError: a tensor has another shape.
        """
        signals: list[Signal] = []
        for number, name in enumerate(names):
            kind, prefix = KINDS[name], f"signals.{number}."
            if kind.is_score:
                signals.append(PlainSignal(kind))
                continue
            mean, whitening = (tensors[f"{prefix}{part}"] for part in ("mean", "whitening"))
            signals.append(GaussianSignal(kind, mean, whitening))
        network = cls(signals, decision, tensors["ranks"].shape[1])
        network.load_state_dict(dict(tensors))
        return network.eval()

    @torch.no_grad()
    def calibrate(self, scores: Float[Tensor, "images signals"]) -> None:
        """Learn what is usual from the signals of clean images that were held out.

        Args:
            scores: signals of images to which no signal was fitted.
        """
        self.centre = scores.median(0).values
        upper = scores.quantile(0.75, 0) - self.centre
        above = (scores - self.centre).clamp(min=0).square().mean(0).sqrt()
        least = torch.maximum(LEAST_SPREAD * above, ROUNDING * self.centre.abs().clamp(min=1))
        self.spread = torch.maximum(upper / NORMAL_QUARTILE, least)
        totals = self.combine((scores - self.centre) / self.spread)
        self.ranks = totals.sort(0).values.T.contiguous()

    def measure(self, observation: Observation) -> Float[Tensor, "batch signals"]:
        """Return the signals of each image of an observation."""
        return torch.stack([signal(observation) for signal in self.signals], 1)

    def combine(self, standardised: Float[Tensor, "batch signals"]) -> Float[Tensor, "batch 2"]:
        """Return the total of the signals of each question."""
        squares = standardised.clamp(min=0).square()
        columns = [self.get_buffer(f"{question}_columns") for question in QUESTIONS]
        return torch.stack([squares.index_select(1, chosen).sum(1) for chosen in columns], 1)

    def find_columns(self, question: Question) -> list[int]:
        """Return the positions of the signals of a question."""
        return [index for index, kind in enumerate(self.kinds) if kind.question == question]

    def find_limits(self, false_alarms: float) -> Float[Tensor, " questions"]:
        """Return the total of each question above which there is an alarm.

        Args:
            false_alarms: fraction of clean images that may raise an alarm, for each question.

        Returns:
            One number per question.
        """
        held_out = self.ranks.shape[1]
        exceeded = count_below_alarm(false_alarms, held_out)
        if exceeded > held_out:  # too few images for any alarm
            return torch.full_like(self.ranks[:, 0], math.inf)
        return self.ranks[:, exceeded - 1]

    def forward(self, observation: Observation) -> Float[Tensor, "batch columns"]:
        """Return the verdict on each image.

        Args:
            observation: what one pass gives.

        Returns:
            For each question the fraction of clean images with a smaller total, the confidence in
            the predicted class, and the standardised signals; see `VerdictFormat`.
        """
        standardised = (self.measure(observation) - self.centre) / self.spread
        totals = self.combine(standardised)
        ranks = (totals[:, :, None] - self.ranks).gt_(0).mean(2)
        confidence = self.find_confidence(observation.logits.float())
        return torch.cat([ranks, confidence[:, None], standardised], 1)

    def find_confidence(self, logits: Logits) -> Scores:
        """Return the calibrated probability of the prediction; of several classes the least."""
        probabilities = self.decision.probabilities(logits / self.temperature)
        if self.decision.is_multiple:
            return torch.maximum(probabilities, 1 - probabilities).amin(1)
        return probabilities.amax(1)
