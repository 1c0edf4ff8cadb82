from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.methods.smooth_taylor import SmoothTaylor


def test_is_the_mean_taylor_term_of_roots_around_the_image(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    """Literal: one image and one root at a time."""
    expected = []
    for image, target in zip(images, targets.tolist(), strict=True):
        generator = torch.Generator().manual_seed(5)
        total = torch.zeros_like(image)
        for _ in range(7):
            noise = (
                0.3 * (image.max() - image.min()) * torch.randn(image.shape, generator=generator)
            )
            root = image + noise
            inputs = root[None].clone().requires_grad_()
            (slopes,) = torch.autograd.grad(
                residual.compute_logits_unchecked(inputs)[0, target], inputs
            )
            total += (image - root) * slopes[0] / 7
        expected.append(total.sum(dim=0))
    maps = SmoothTaylor(samples=7, noise=0.3, seed=5)(residual, images, targets)
    torch.testing.assert_close(maps, torch.stack(expected), atol=1e-6, rtol=1e-4)


class Squares(nn.Module):
    """Each class scores the squares of the pixels, weighted by its number."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.square().sum(dim=(1, 2, 3))[:, None] * torch.arange(4)


def test_of_squares_is_their_curvature(
    opened: Callable[[nn.Module], Classifier], targets: torch.Tensor
) -> None:
    """E[−ε · 2c (x + ε)] = −2c σ², for each of three channels."""
    images = torch.full((3, 3, 24, 32), 0.5)
    images[:, :, 0, :2] = torch.tensor([0.0, 1.0])
    maps = SmoothTaylor(noise=0.1)(opened(Squares()), images, targets)
    means = maps[:, 1:].mean(dim=(1, 2))
    expected = -2 * targets * 0.1**2 * 3
    torch.testing.assert_close(means, expected.float(), atol=1e-9, rtol=0.02)


def test_of_a_linear_model_is_nothing_on_black_and_on_white(
    linear: Classifier, targets: torch.Tensor
) -> None:
    """E[−ε · w] = 0, whatever the pixel."""
    images = torch.zeros(3, 3, 24, 32)
    images[..., 16:] = 1
    maps = SmoothTaylor(samples=2000, noise=0.3)(linear, images, targets)
    spread = maps.std()
    for half in (maps[..., :16], maps[..., 16:]):
        assert half.mean().abs() < 4 * spread / half[0].numel() ** 0.5  # one noise for all images


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected finite noise above 0, got -1"):
        SmoothTaylor(noise=-1.0)


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="smooth_taylor needs a classifier with gradients"):
        SmoothTaylor()(black_box, images, targets)
