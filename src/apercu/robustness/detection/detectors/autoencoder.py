"""What a narrow network cannot draw again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, nn

from apercu.option_strings import MAX_SEED
from apercu.robustness.checks import check_count, check_positive, check_whole
from apercu.robustness.detection.detectors.base import AnomalyScore, Detector, Features
from apercu.types import Scores

WIDTHS = (100, 50, 25, 50, 100)
"""Of the layers between features and features (Watson and Al Moubayed 2021)."""
BATCH = 64


@final
@dataclass(frozen=True)
class Autoencoder(Detector):
    """Squared error of a reconstruction through 25 numbers (Watson and Al Moubayed 2021).

    Args:
        steps: of training with Adam.
        rate: learning rate.
        seed: of the first weights and the batches.
    """

    steps: int = 600
    rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self.steps, "autoencoder: steps")
        check_positive("autoencoder", rate=self.rate)
        check_whole("autoencoder", 0, MAX_SEED, seed=self.seed)

    def fit_standardised(self, usual: Features) -> AnomalyScore:
        generator = Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = _build_network(usual.shape[1])
        optimiser = torch.optim.Adam(network.parameters(), self.rate)
        for _ in range(self.steps):
            chosen = torch.randint(len(usual), (BATCH,), generator=generator)
            loss = (network(usual[chosen]) - usual[chosen]).square().mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()

        @torch.no_grad()
        def strangeness(features: Features) -> Scores:
            return (network(features) - features).square().mean(1)

        return strangeness


def _build_network(features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = features
    for width in WIDTHS:
        layers += [nn.Linear(before, width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, features))
