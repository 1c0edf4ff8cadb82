"""A head with a small hidden layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Generator, nn

from apercu.errors import ConfigError
from apercu.pretraining.heads.base import (
    ClassPredictor,
    FeatureHead,
    Features,
    Labels,
    compute_class_weights,
)
from apercu.types import Targets

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
