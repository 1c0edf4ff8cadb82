"""One layer, to the end."""

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
"""Of L-BFGS, at most."""


@final
@dataclass(frozen=True)
class Linear(FeatureHead):
    """Multinomial logistic regression with an L2 penalty, solved by L-BFGS from zero.

    Args:
        penalty: of the squared weights, as scikit-learn's 1 / C, per sum over all labels.
    """

    penalty: float = 1.0

    def __post_init__(self) -> None:
        if not self.penalty >= 0:
            raise ConfigError(f"linear: penalty: expected a number from 0, got {self.penalty:g}")

    def train_network(
        self, features: Features, labels: Labels, classes: int, seed: int
    ) -> ClassPredictor:
        known = features.double()
        weight = torch.zeros(known.shape[1], classes, dtype=torch.double, requires_grad=True)
        bias = torch.zeros(classes, dtype=torch.double, requires_grad=True)
        counts = compute_class_weights(labels, classes).double()
        absent = torch.where(counts > 0, 0.0, -torch.inf)
        optimiser = torch.optim.LBFGS(
            [weight, bias], max_iter=MOST_STEPS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            logits = known @ weight + bias + absent
            each = F.cross_entropy(logits, labels, weight=counts, reduction="sum")
            found = (each + self.penalty * weight.square().sum() / 2) / len(known)
            torch.autograd.backward(found)
            return found

        optimiser.step(loss)  # type: ignore[no-untyped-call]

        @torch.no_grad()
        def reads(shown: Features) -> Targets:
            return (shown.double() @ weight + bias + absent).argmax(1)

        return reads
