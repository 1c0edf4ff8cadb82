from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from apercu.classifiers import (
    BlackBox,
    Classifier,
    ClassifierCard,
    InputSpec,
    Network,
    wrap_module,
)

SIZE = (24, 32)
CLASSES = 4


def open_module(module: nn.Module, *, mean: float = 0.0, std: float = 1.0) -> Classifier:
    spec = InputSpec(channels=3, size=SIZE, mean=(mean,) * 3, std=(std,) * 3)
    return wrap_module(module, ClassifierCard(source="tests:network", input=spec))


class Residual(nn.Module):
    """Two stages, a functional ReLU in the second, the mean over all positions, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(Stage(6, 8, 2), Stage(8, 8, 1))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(self.stem(images)).mean(dim=(2, 3)))


class Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.side = nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(features) + self.side(features))


@pytest.fixture
def opened() -> Callable[[nn.Module], Classifier]:
    return open_module


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.tensor([2, 0, 2])


@pytest.fixture
def residual() -> Classifier:
    """Mean over all positions, then a linear layer."""
    torch.manual_seed(0)
    return open_module(Residual(), mean=0.5, std=0.25)


@pytest.fixture
def squeezed() -> Classifier:
    """A 1 × 1 convolution to the classes, clipped at 0, then the mean over all positions."""
    torch.manual_seed(0)
    scores = nn.Conv2d(8, CLASSES, 1)
    nn.init.constant_(scores.bias, 0.3)  # type: ignore[arg-type]
    return open_module(
        nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(inplace=True)),
            nn.Sequential(
                nn.Dropout(0.5),
                scores,
                nn.ReLU(inplace=True),
                nn.AdaptiveAvgPool2d(1),
            ),
            nn.Flatten(),
        )
    )


class Transformer(nn.Module):
    """Patches, two blocks of attention, logits of the class token or of the mean over positions."""

    def __init__(self, *, mean: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.first, self.second = Block(), Block()
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)
        self.mean = mean

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((torch.ones(len(tokens), 1, 8), tokens), dim=1)
        tokens = self.norm(self.second(self.first(tokens)))
        return self.head(tokens[:, 1:].mean(dim=1) if self.mean else tokens[:, 0])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.LayerNorm(8)
        self.attend = nn.Linear(8, 24)
        self.after = nn.Linear(8, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        parts = self.attend(self.before(tokens)).chunk(3, dim=2)
        heads = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in parts)
        results = nn.functional.scaled_dot_product_attention(*heads)
        return tokens + self.after(results.transpose(1, 2).flatten(2))


@pytest.fixture
def transformer_class() -> type[nn.Module]:
    return Transformer


@pytest.fixture
def transformer() -> Classifier:
    """Two blocks of attention and a class token."""
    return open_module(Transformer(mean=False), mean=0.5, std=0.25)


@pytest.fixture
def linear() -> Classifier:
    torch.manual_seed(0)
    flat = nn.Linear(3 * SIZE[0] * SIZE[1], CLASSES)
    return open_module(nn.Sequential(nn.Flatten(), flat), mean=0.5, std=0.25)


class QueriesOnly:
    """Logits without gradients or layers, as ONNX files and plain functions give them."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self._classifier(images)


@pytest.fixture
def black_box(residual: Classifier) -> Classifier:
    spec = InputSpec(channels=3, size=SIZE)
    network = Network(
        source="tests:asked",
        forward=BlackBox(QueriesOnly(residual)),
        digest="0",
        input=spec,
        differentiable=False,
    )
    return Classifier(network)
