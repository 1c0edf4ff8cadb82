"""A head with one linear layer, optimised to convergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

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
