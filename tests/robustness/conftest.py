"""A small classifier of bars in two directions, which trains in no time, and other images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, wrap_module
from apercu.robustness.unknown import KnownImages

SIDE = 16


def _draw_bars(count: int, seed: int, kind: str = "known") -> tuple[Tensor, Tensor]:
    """Draw bars of two directions; `unknown` ones are dark discs with a coloured edge."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    rows = torch.arange(SIDE).float()
    images = torch.zeros(count, 3, SIDE, SIDE)
    for index in range(count):
        phase, tone = torch.rand(2, generator=generator).tolist()
        if kind == "known":
            wave = ((rows + 4 * phase) % 4 < 2).float()
            bars = wave[None, :].expand(SIDE, SIDE) if labels[index] else wave[:, None]
            images[index] = (0.3 + 0.4 * tone) * bars
        else:
            far = (rows[:, None] - 8 - 2 * phase).square() + (rows[None, :] - 8).square()
            images[index, 0] = (far.sqrt() < 5).float() * (0.6 + 0.4 * tone)
            images[index, 2] = (far.sqrt() >= 5).float() * 0.8
    noise = 0.03 * torch.randn(images.shape, generator=generator)
    return (images + noise).clamp(0, 1), labels


class Bars(nn.Module):
    """A small network of two classes with feature maps of two strides."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.head = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(images)).mean((2, 3)))
        return logits


def _wrap_bars(network: nn.Module, **card: object) -> Classifier:
    """Return a network of bars as a classifier."""
    spec = InputSpec(size=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
    fields = {"source": "memory/bars", "input": spec, "classes": ("rows", "columns"), **card}
    return wrap_module(network, ClassifierCard.model_validate(fields))


@pytest.fixture(scope="session")
def bars() -> Classifier:
    """A classifier that was trained for some steps to tell the directions of bars."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Bars()
    images, labels = _draw_bars(64, seed=1)
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(40):
        loss = nn.functional.cross_entropy(network(2 * images - 1), labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return _wrap_bars(network)


@pytest.fixture(scope="session")
def known(bars: Classifier) -> KnownImages:
    return KnownImages(bars, *_draw_bars(64, seed=1))


@pytest.fixture(scope="session")
def draw_bars() -> Callable[..., tuple[Tensor, Tensor]]:
    """Draws bars of two directions with their labels, or discs of an unknown kind."""
    return _draw_bars


@pytest.fixture(scope="session")
def wrap_bars() -> Callable[..., Classifier]:
    """Makes a classifier of images of bars from a network."""
    return _wrap_bars


@pytest.fixture
def make_network() -> Callable[[], Any]:
    """Makes the network of bars with random weights."""
    return Bars
