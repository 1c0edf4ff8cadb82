"""A halftone that is turned into grey values again."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from apercu.filters import FilterLayer, FloydSteinberg, InverseHalftone
from apercu.filters import inverse_halftone as module
from apercu.filters.base import format_cache_key
from apercu.filters.gaussian import blur
from apercu.filters.inverse_halftone import (
    BLUR,
    WEIGHTS,
    InverseHalftoneNetwork,
    open_network,
)


def draw_scene(count: int = 2, channels: int = 3, side: int = 48) -> torch.Tensor:
    """Smooth colours with a sharp disc, so that there is something to lose."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    images = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / 4) ** 2
    return torch.where(disc, 1 - images, images)


def read_network(halftone: torch.Tensor) -> torch.Tensor:
    """What the network does, convolution by convolution, from the names in its file."""
    from safetensors.torch import load_file

    weights = {name: value.float() for name, value in load_file(WEIGHTS).items()}

    def convolve(name: str, features: torch.Tensor, stride: int = 1) -> torch.Tensor:
        kernel = weights[f"{name}.weight"]
        return F.conv2d(features, kernel, weights[f"{name}.bias"], stride, kernel.shape[-1] // 2)

    def add_block(name: str, features: torch.Tensor) -> torch.Tensor:
        inner = F.relu(convolve(f"{name}.first", features))
        return features + convolve(f"{name}.second", inner)

    quarters = [halftone[:, :, row::2, column::2] - 0.5 for row in (0, 1) for column in (0, 1)]
    planes = torch.stack(quarters, 2).flatten(1, 2)
    fine = add_block("before", F.relu(convolve("stem", planes)))
    coarse = F.relu(convolve("down", fine, stride=2))
    for name in ("deep.0", "deep.1"):
        coarse = add_block(name, coarse)
    fine = add_block("after", fine + F.pixel_shuffle(convolve("up", coarse), 2))
    return F.pixel_shuffle(convolve("head", fine), 2)


def test_it_is_the_blurred_halftone_and_the_network_s_correction() -> None:
    images = draw_scene()
    halftones = FloydSteinberg()(images)
    expected = (blur(halftones, BLUR) + read_network(halftones)).clamp(0, 1)
    torch.testing.assert_close(InverseHalftone()(images), expected, atol=1e-5, rtol=0)


def test_without_detail_it_is_the_blurred_halftone() -> None:
    images = draw_scene()
    expected = blur(FloydSteinberg()(images), BLUR).clamp(0, 1)
    torch.testing.assert_close(InverseHalftone(detail=0.0)(images), expected)


def test_half_the_detail_is_half_way() -> None:
    images = draw_scene()
    soft, half, whole = (InverseHalftone(d).apply_surrogate(images) for d in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (soft + whole) / 2)


def test_black_and_white_images_stay_as_they_are() -> None:
    flat = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    errors = (InverseHalftone()(flat) - flat).abs()
    assert errors.mean() < 0.02
    assert errors.amax() < 0.05


@pytest.mark.parametrize("tint", [[1.0], [0.9, 1.0, 0.8], [0.9, 1.0, 0.8, 0.7]], ids=len)
def test_the_network_brings_back_more_than_any_blur(tint: list[float]) -> None:
    """The channels resemble each other, as in the photographs that the network learnt from."""
    images = draw_scene(channels=1) * torch.tensor(tint)[:, None, None]
    halftones = FloydSteinberg()(images)
    blurs = [blur(halftones, sigma) for sigma in (0.7, 1.0, 1.3, 1.6, 2.0, 2.5)]
    least = min((blurred - images).square().mean() for blurred in blurs)
    assert (InverseHalftone()(images) - images).square().mean() < 0.5 * least


def test_only_the_halftone_is_seen() -> None:
    """Images with the same halftone are reconstructed as the same image."""
    images = FloydSteinberg()(draw_scene())
    other = (images + 0.4 / 255).clamp(0, 1)  # rounded away by the halftone's 8 bits
    assert torch.equal(InverseHalftone()(images), InverseHalftone()(other))


def test_channels_beyond_colours_are_reconstructed_by_themselves() -> None:
    images = draw_scene(channels=4)
    alone = [InverseHalftone()(channel) for channel in images.split(1, dim=1)]
    torch.testing.assert_close(InverseHalftone()(images), torch.cat(alone, 1), atol=1e-5, rtol=0)


def test_sides_of_any_length() -> None:
    images = draw_scene(side=46)[:, :, :45, :43]
    result = InverseHalftone()(images)
    assert result.shape == images.shape
    assert (result - images).square().mean() < 0.01


def test_the_surrogate_is_the_reconstruction_with_the_gradient_of_a_blur() -> None:
    images = draw_scene().requires_grad_()
    layer = FilterLayer(InverseHalftone(), "surrogate")
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    (gradients,) = torch.autograd.grad((layer(images) * weights).sum(), images)
    halftones = FloydSteinberg()(images).requires_grad_()
    reconstructed = blur(halftones, BLUR) + open_network(images.device)(halftones)
    (behind,) = torch.autograd.grad((reconstructed * weights).sum(), halftones)
    (expected,) = torch.autograd.grad((blur(images, 1.0) * behind).sum(), images)
    torch.testing.assert_close(gradients, expected)


def test_an_untrained_network_corrects_nothing() -> None:
    assert not InverseHalftoneNetwork()(draw_scene()).any()


def test_results_of_other_weights_are_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    before = format_cache_key(InverseHalftone())
    assert before == format_cache_key(InverseHalftone())
    assert before.startswith("InverseHalftone(detail=1.0, digest=")
    other = InverseHalftoneNetwork()
    monkeypatch.setattr(module, "open_network", lambda device: other)
    assert format_cache_key(InverseHalftone()) != before
    assert "digest" not in {field.name for field in dataclasses.fields(InverseHalftone)}
