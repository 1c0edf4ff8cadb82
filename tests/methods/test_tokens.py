from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from apercu.classifiers import Classifier
from apercu.methods.tokens import convert_to_map, find_last_spatial_layer

Opened = Callable[[nn.Module], Classifier]


@pytest.mark.parametrize("extra", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("size", "grid"), [((224, 224), (14, 14)), ((24, 32), (3, 4)), ((48, 80), (3, 5))]
)
def test_tokens_are_positions_row_by_row_after_the_others(
    extra: int, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    places = torch.rand(2, 7, *grid)
    tokens = places.flatten(2).transpose(1, 2)
    found = convert_to_map(torch.cat((torch.rand(2, extra, 7), tokens), dim=1), size)
    assert found is not None
    assert torch.equal(found, places)


@pytest.mark.parametrize("shape", [(2, 8, 7, 7), (2, 64, 112, 112), (2, 8, 8, 8), (2, 3, 1, 2)])
def test_maps_with_channels_first_stay(shape: tuple[int, ...]) -> None:
    features = torch.rand(shape)
    found = convert_to_map(features, (224, 224))
    assert found is not None
    assert torch.equal(found, features)


def test_channels_that_come_last_are_brought_forward() -> None:
    features = torch.rand(2, 3, 4, 96)
    found = convert_to_map(features, (24, 32))
    assert found is not None
    assert torch.equal(found, features.permute(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 1, 1), (2, 1, 8), (2, 180, 8)])
def test_an_output_without_positions_is_no_map(shape: tuple[int, ...]) -> None:
    assert convert_to_map(torch.rand(shape), (224, 224)) is None


class Transformer(nn.Module):
    """Patches, two blocks of attention, logits of the class token or of the mean over positions."""

    def __init__(self, *, mean: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.first, self.second = Block(), Block()
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)
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
        query, key, value = self.attend(self.before(tokens)).chunk(3, dim=2)
        seen = nn.functional.scaled_dot_product_attention(query, key, value)
        return tokens + self.after(seen)


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embed(images).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Transformer(mean=False), "second.before"),
        (Transformer(mean=True), "norm"),
        (ChannelsLast(), "norm"),
        (nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.Flatten(), nn.Linear(96, 4)), "0"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 32, 4)), None),
    ],
    ids=["class token", "mean of tokens", "channels last", "convolution", "linear"],
)
def test_the_last_positions_that_matter_are_found(
    network: nn.Module, expected: str | None, opened: Opened, images: torch.Tensor
) -> None:
    classifier = opened(network)
    assert find_last_spatial_layer(classifier, network, images[:1], channels=8) == expected
    assert all(not layer._forward_hooks for layer in network.modules())
