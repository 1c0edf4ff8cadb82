"""Resizing against Pillow and a literal crop; normalising against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from apercu.classifiers.card import InputSpec
from apercu.classifiers.preprocessing import fit_image, normalise


def _random_image(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(1))


def _pillow(channel: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    resized = Image.fromarray(channel.numpy(), mode=None).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR
    )
    return torch.from_numpy(np.asarray(resized).copy())


@pytest.mark.parametrize("stored", [(60, 90), (17, 11), (1, 1), (16, 24)])
def test_squash_is_pillows_antialiased_bilinear(stored: tuple[int, int]) -> None:
    image = _random_image(*stored)
    fitted = fit_image(image, InputSpec(size=(16, 24)))
    expected = torch.stack([_pillow(channel, (16, 24)) for channel in image])
    torch.testing.assert_close(fitted, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stored", [(60, 90), (90, 60), (20, 21)])
def test_crop_resizes_the_short_side_and_cuts_the_centre(stored: tuple[int, int]) -> None:
    image = _random_image(*stored)
    fitted = fit_image(image, InputSpec(size=(16, 16), resize=20), "crop")
    resized = [20 * side // min(stored) for side in stored]
    whole = torch.stack([_pillow(channel, (resized[0], resized[1])) for channel in image])
    top, left = round((resized[0] - 16) / 2), round((resized[1] - 16) / 2)
    torch.testing.assert_close(
        fitted, whole[:, top : top + 16, left : left + 16], atol=1e-5, rtol=0
    )


def test_crop_without_resize_takes_the_largest_centre() -> None:
    image = _random_image(16, 32)
    fitted = fit_image(image, InputSpec(size=(16, 16)), "crop")
    assert torch.equal(fitted, image[:, :, 8:24])


def test_crop_covers_a_classifier_that_is_not_square() -> None:
    fitted = fit_image(_random_image(10, 50), InputSpec(size=(20, 30)), "crop")
    assert fitted.shape == (3, 20, 30)


def test_an_image_of_the_right_size_is_unchanged() -> None:
    image = _random_image(16, 16)
    assert torch.equal(fit_image(image, InputSpec(size=(16, 16))), image)


def test_mean_and_std() -> None:
    images = torch.rand(2, 2, 3, 3)
    spec = InputSpec(channels=2, size=(3, 3), mean=(0.5, 0.25), std=(0.1, 2.0))
    normalised = normalise(images, spec)
    torch.testing.assert_close(normalised[:, 0], (images[:, 0] - 0.5) / 0.1)
    torch.testing.assert_close(normalised[:, 1], (images[:, 1] - 0.25) / 2.0)


def test_l2_per_channel_on_raw_counts() -> None:
    images = torch.tensor([[[[3.0, float("nan")], [4.0, -float("inf")]], [[0.0, 0.0], [0, 0]]]])
    spec = InputSpec(channels=2, size=(2, 2), normalise="l2_per_channel")
    expected = torch.tensor([[[[0.6, 0.0], [0.8, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    torch.testing.assert_close(normalise(images, spec), expected)


def test_l2_per_channel_has_finite_gradients_where_a_channel_is_empty() -> None:
    images = torch.zeros(1, 1, 2, 2).requires_grad_()
    normalise(
        images, InputSpec(channels=1, size=(2, 2), normalise="l2_per_channel")
    ).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_raw_counts_are_made_finite_before_they_are_resized() -> None:
    image = torch.ones(1, 8, 8)
    image[0, 0, 0] = float("nan")
    spec = InputSpec(channels=1, size=(4, 4), normalise="l2_per_channel")
    assert fit_image(image, spec).isfinite().all()
