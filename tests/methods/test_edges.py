from __future__ import annotations

import math

import torch
from skimage.color import rgb2gray
from skimage.filters import sobel

from apercu.classifiers import Classifier
from apercu.methods.baselines import Edges


def test_equals_scikit_image(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    """scikit-image divides by the root of two, and has luminance weights of another standard."""
    grey = images[:, :1].expand(-1, 3, -1, -1)
    maps = Edges()(residual, grey, targets)
    for edges, image in zip(maps, grey, strict=True):
        expected = torch.from_numpy(sobel(rgb2gray(image.movedim(0, 2).double().numpy())))
        torch.testing.assert_close(edges.double(), expected / math.sqrt(2), atol=1e-6, rtol=1e-4)


def test_of_a_ramp_is_its_gradient_times_the_luminance(
    residual: Classifier, targets: torch.Tensor
) -> None:
    down, across = torch.arange(24.0)[:, None] / 100, torch.arange(32.0) / 100
    images = torch.zeros(3, 3, 24, 32)
    images[0, 0] += across
    images[1, 1] += down
    images[2] += 0.6 * down + 0.8 * across
    maps = Edges()(residual, images, targets)[:, 1:-1, 1:-1]
    expected = torch.tensor([0.299, 0.587, 1.0])[:, None, None] / 100
    torch.testing.assert_close(maps, expected.expand_as(maps), atol=1e-7, rtol=1e-4)


def test_a_flat_image_has_none_even_at_its_border(
    residual: Classifier, targets: torch.Tensor
) -> None:
    maps = Edges()(residual, torch.full((3, 3, 24, 32), 0.7), targets)
    torch.testing.assert_close(maps, torch.zeros(3, 24, 32), atol=1e-7, rtol=0)


def test_other_numbers_of_channels_are_averaged(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    five = torch.cat((images, images[:, :2]), dim=1)
    mean = five.mean(dim=1, keepdim=True)
    maps, expected = (Edges()(residual, one, targets) for one in (five, mean))
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)
