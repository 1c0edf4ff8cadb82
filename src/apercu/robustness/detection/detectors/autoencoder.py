"""A detector by the reconstruction error of a narrow network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, nn

from apercu.filters.checks import check_count, check_positive, check_whole
from apercu.option_strings import MAX_SEED
from apercu.robustness.detection.detectors.base import AnomalyScore, Detector, Features
from apercu.types import Scores

WIDTHS = (100, 50, 25, 50, 100)
"""Widths of the hidden layers (Watson and Al Moubayed 2021)."""
BATCH = 64


@final
@dataclass(frozen=True)
class Autoencoder(Detector):
    """Scores the squared error of a reconstruction from 25 numbers (Watson and Al Moubayed 2021).

    Args:
        steps: number of steps of training with Adam.
        rate: learning rate.
        seed: seed of the initial weights and the batches.
    """

    steps: int = 600
    rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self.steps, "autoencoder: steps")
        check_positive("autoencoder", rate=self.rate)
        check_whole("autoencoder", 0, MAX_SEED, seed=self.seed)

    def fit_standardised(self, clean: Features) -> AnomalyScore:
        generator = Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = _build_network(clean.shape[1])
        optimiser = torch.optim.Adam(network.parameters(), self.rate)
        for _ in range(self.steps):
            chosen = torch.randint(len(clean), (BATCH,), generator=generator)
            loss = (network(clean[chosen]) - clean[chosen]).square().mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()

        @torch.no_grad()
        def score_anomaly(features: Features) -> Scores:
            return (network(features) - features).square().mean(1)

        return score_anomaly


def _build_network(features: int) -> nn.Sequential:
    """Build the network from a number of features to as many features."""
    layers: list[nn.Module] = []
    before = features
    for width in WIDTHS:
        layers += [nn.Linear(before, width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, features))
