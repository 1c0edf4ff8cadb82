"""A head with one linear layer, optimised to convergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from apercu.errors import ConfigError
from apercu.pretraining.heads.base import (
    ClassPredictor,
    FeatureHead,
    Features,
    Labels,
    compute_class_weights,
)
from apercu.types import Targets

MOST_STEPS = 100
"""Largest number of steps of L-BFGS."""


@final
@dataclass(frozen=True)
class Linear(FeatureHead):
    """Solves multinomial logistic regression with an L2 penalty by L-BFGS from zero.

    Args:
        penalty: penalty of the squared weights; scikit-learn's 1 / C.
    """

    penalty: float = 1.0

    def __post_init__(self) -> None:
        if not self.penalty >= 0:
            raise ConfigError(f"linear: penalty: expected a number from 0, got {self.penalty:g}")

    def fit_standardised(
        self, features: Features, labels: Labels, classes: int, seed: int
    ) -> ClassPredictor:
        inputs = features.double()
        weight = torch.zeros(inputs.shape[1], classes, dtype=torch.double, requires_grad=True)
        bias = torch.zeros(classes, dtype=torch.double, requires_grad=True)
        weights = compute_class_weights(labels, classes).double()
        absent = torch.where(weights > 0, 0.0, -torch.inf)
        optimiser = torch.optim.LBFGS(
            [weight, bias], max_iter=MOST_STEPS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
        )

        def compute_loss() -> Tensor:
            optimiser.zero_grad()
            logits = inputs @ weight + bias + absent
            total = F.cross_entropy(logits, labels, weight=weights, reduction="sum")
            loss = (total + self.penalty * weight.square().sum() / 2) / len(inputs)
            torch.autograd.backward(loss)
            return loss

        optimiser.step(compute_loss)  # type: ignore[no-untyped-call]

        @torch.no_grad()
        def predict(new: Features) -> Targets:
            return (new.double() @ weight + bias + absent).argmax(1)

        return predict


BATCH = 32


@final
@dataclass(frozen=True)
class Dense(FeatureHead):
    """Trains a hidden layer of a few units with Adam (Martinazzo et al. 2020).

    Args:
        width: width of the hidden layer.
        steps: number of batches of 32.
        rate: initial learning rate, which falls to 0 along a cosine.
        decay: weight decay.
    """

    width: int = 12
    steps: int = 600
    rate: float = 3e-3
    decay: float = 1e-2

    def __post_init__(self) -> None:
        if min(self.width, self.steps) < 1:
            raise ConfigError("dense: expected width and steps of at least 1")

    def fit_standardised(
        self, features: Features, labels: Labels, classes: int, seed: int
    ) -> ClassPredictor:
        generator = Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = nn.Sequential(
                nn.Linear(features.shape[1], self.width), nn.ReLU(), nn.Linear(self.width, classes)
            )
        optimiser = torch.optim.AdamW(network.parameters(), self.rate, weight_decay=self.decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        weights = compute_class_weights(labels, classes)
        for _ in range(self.steps):
            chosen = torch.randint(len(features), (BATCH,), generator=generator)
            losses = F.cross_entropy(network(features[chosen]), labels[chosen], reduction="none")
            loss = (weights[labels[chosen]] * losses).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()

        @torch.no_grad()
        def predict(new: Features) -> Targets:
            logits: torch.Tensor = network(new)
            return logits.argmax(1)

        return predict
