from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from apercu.classifiers import Classifier
from apercu.log import redirect_warnings
from apercu.methods import GradCam, ZoomCam
from apercu.methods.tokens import find_feature_layouts, find_last_spatial_layer

Opened = Callable[[nn.Module], Classifier]


class Tokens(nn.Module):
    """Patches of 8 pixels, a layer that passes their tokens on, and extra tokens around them."""

    def __init__(self, before: int = 0, after: int = 0, stride: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 7, 8, stride=stride)
        self.before = nn.Parameter(torch.rand(1, before, 7))
        self.after = nn.Parameter(torch.rand(1, after, 7))
        self.tokens = nn.Identity()
        self.head = nn.Linear(7, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        extra = (part.expand(len(images), -1, -1) for part in (self.before, self.after))
        before, after = extra
        return self.head(self.tokens(torch.cat((before, tokens, after), dim=1)).mean(dim=1))


@pytest.mark.parametrize(
    ("before", "after", "stride"),
    [(0, 0, 8), (1, 0, 8), (5, 0, 8), (0, 4, 8), (1, 2, 8), (1, 0, 4), (2, 0, 3)],
)
def test_tokens_are_positions_row_by_row(
    before: int, after: int, stride: int, opened: Opened, images: torch.Tensor
) -> None:
    network = Tokens(before, after, stride)
    classifier = opened(network)
    places = network.embed(images)
    tokens = places.flatten(2).transpose(1, 2)
    tokens = torch.cat((torch.rand(3, before, 7), tokens, torch.rand(3, after, 7)), dim=1)
    maps = find_feature_layouts(classifier, network).read("tokens", tokens)
    assert maps is not None
    assert torch.equal(maps, places)


class Inner(nn.Module):
    """Outputs with four axes that are no maps: attention, and values per head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.act, self.norm, self.heads = nn.ReLU(), nn.LayerNorm(8), nn.ReLU()
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.embed(images).flatten(2).transpose(1, 2))
        heads = self.heads(tokens.unflatten(2, (4, 2)).transpose(1, 2))
        weights = self.act(heads @ heads.mT)
        tokens = tokens + (weights @ heads).transpose(1, 2).flatten(2)
        return self.head(tokens.mean(dim=1))


def test_inner_outputs_with_four_axes_are_no_maps(
    opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    network = Inner()
    classifier = opened(network)
    layouts = find_feature_layouts(classifier, network)
    assert layouts.read("act", torch.rand(3, 4, 12, 12)) is None
    assert layouts.read("heads", torch.rand(3, 4, 12, 2)) is None
    expected = ZoomCam(layers=("norm",))(classifier, images, targets)
    torch.testing.assert_close(ZoomCam()(classifier, images, targets), expected)


@pytest.mark.parametrize("shape", [(2, 8, 3, 4), (2, 64, 12, 16), (2, 3, 1, 2)])
def test_maps_of_convolutional_networks_stay(shape: tuple[int, ...], residual: Classifier) -> None:
    assert residual.module is not None
    features = torch.rand(shape)
    maps = find_feature_layouts(residual, residual.module).read("layer", features)
    assert maps is not None
    assert torch.equal(maps, features)


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 1, 1), (2, 1, 8), (2, 180, 8), (2, 8, 4, 48)])
def test_an_output_without_positions_is_no_map(
    shape: tuple[int, ...], residual: Classifier
) -> None:
    assert residual.module is not None
    layouts = find_feature_layouts(residual, residual.module)
    assert layouts.read("layer", torch.rand(shape)) is None


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embed(images).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


def test_channels_that_come_last_are_brought_forward(opened: Opened, images: torch.Tensor) -> None:
    network = ChannelsLast()
    classifier = opened(network)
    features = network.norm(network.embed(images).movedim(1, 3))
    maps = find_feature_layouts(classifier, network).read("norm", features)
    assert maps is not None
    assert torch.equal(maps, features.movedim(3, 1))


class Latents(nn.Module):
    """64 latents without a position read the pixels, as in Perceiver."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.latents = nn.Parameter(torch.rand(64, 8))
        self.pixels, self.norm, self.head = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = self.pixels(images.flatten(2).transpose(1, 2))
        latents = self.latents.expand(len(images), -1, -1)
        return self.head(
            self.norm(nn.functional.scaled_dot_product_attention(latents, pixels, pixels)).mean(1)
        )


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda transformer: transformer(mean=False), "second.before"),
        (lambda transformer: transformer(mean=True), "norm"),
        (lambda _: ChannelsLast(), "norm"),
        (
            lambda _: nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.Flatten(), nn.Linear(96, 4)),
            "0",
        ),
        (lambda _: nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 32, 4)), None),
        (lambda _: Latents(), "pixels"),
    ],
    ids=["class token", "mean of tokens", "channels last", "convolution", "linear", "latents"],
)
def test_the_last_positions_that_matter_are_recognised(
    build: Callable[[type[nn.Module]], nn.Module],
    expected: str | None,
    transformer_class: type[nn.Module],
    opened: Opened,
    images: torch.Tensor,
) -> None:
    network = build(transformer_class)
    classifier = opened(network)
    assert find_last_spatial_layer(classifier, network, images[:1], channels=8) == expected
    assert all(not layer._forward_hooks for layer in network.modules())


def test_grad_cam_uses_the_network_s_own_grid(opened: Opened, images: torch.Tensor) -> None:
    """Patches of 8 pixels every 4: 5 × 7 positions after a class token."""
    network = Tokens(before=1, stride=4)
    classifier = opened(network)
    places = network.embed(images)
    expected = torch.einsum("c,bchw->bhw", network.head.weight[2], places).clamp(min=0) / 36
    maps = GradCam(layer="tokens")(classifier, images, 2)
    size = (images.shape[2], images.shape[3])
    expected = nn.functional.interpolate(expected[:, None], size, mode="bilinear")[:, 0]
    torch.testing.assert_close(maps, expected)


class ApartAttention(nn.Module):
    """A class token that attends to the patches once, with queries, keys and values apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.token = nn.Parameter(torch.rand(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(len(images), -1, -1), tokens), dim=1)
        inside = self.norm(tokens)
        scores = self.query(inside) @ self.key(inside).transpose(1, 2)
        tokens = tokens + scores.softmax(-1) @ self.value(inside)
        return self.head(tokens[:, 0])


def test_projections_beside_each_other_are_a_part_of_the_attention(
    opened: Opened, images: torch.Tensor
) -> None:
    network = ApartAttention()
    assert find_last_spatial_layer(opened(network), network, images[:1], 8) == "norm"


class Joined(nn.Module):
    """Two branches whose means are joined, or a sum behind the last layer; or one way alone."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.third = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(8 if kind == "branches" else 4, 4)
        self.kind = kind

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.first(images)
        if self.kind == "branches":
            pooled = [maps.mean((2, 3)), self.second(images).mean((2, 3))]
            return self.head(torch.cat(pooled, 1))
        deep = self.third(maps)
        return self.head((deep + maps if self.kind == "sum" else deep).mean((2, 3)))


@pytest.mark.parametrize(("kind", "is_told"), [("branches", True), ("sum", True), ("one", False)])
def test_another_path_past_the_last_map_is_told_once(
    kind: str, is_told: bool, opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    classifier = opened(Joined(kind))
    lines: list[str] = []
    with redirect_warnings(lines.append):
        for method in (GradCam(), GradCam(), ZoomCam()):
            method(classifier, images, targets)
        GradCam(layer="first")(classifier, images, targets)
    assert len([line for line in lines if "past its last feature map" in line]) == is_told
