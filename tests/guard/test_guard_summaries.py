"""What a guard looks at, computed together, against literal slow forms of the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from apercu.guard.summaries import (
    FIFTH_ORDER,
    LAPLACIAN,
    LARGE,
    LEVELS,
    STEPS,
    Observation,
    _stack_kernels,
    summarise_colour_noise,
    summarise_contrast,
    summarise_explanation,
    summarise_noise,
)


def draw_images(channels: int, height: int, width: int) -> torch.Tensor:
    """Draw two smooth images with fine noise of eight bits."""
    generator = torch.Generator().manual_seed(channels + height)
    slope = torch.linspace(0.2, 0.7, width).expand(2, channels, height, width)
    noise = 0.01 * torch.randn(2, channels, height, width, generator=generator)
    return ((slope + noise).clamp(0, 1) * 255).round() / 255


def filter_literally(planes: np.ndarray, kernel: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """Filter each plane by itself, in double precision, and keep what a guard looks at."""
    weights = np.array(kernel) / np.abs(kernel).sum()
    step = 2 if min(planes.shape[2:]) >= LARGE else 1
    return np.array(
        [[correlate2d(plane, weights, "valid")[::step, ::step] for plane in row] for row in planes]
    )


def summarise_literally(residual: np.ndarray) -> np.ndarray:
    """Return the logits of the fractions of small residuals, and the log of their variance."""
    size = np.abs(residual)
    fractions = np.stack([(size < step / 255).mean((1, 2, 3)) for step in STEPS], 1)
    variance = np.maximum((residual**2).mean((1, 2, 3)), 1e-8)
    odds = (fractions + 1e-3) / (1 - fractions + 1e-3)
    return np.log(np.concatenate([odds, variance[:, None]], 1))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(5, 5), (33, 20), (LARGE, LARGE + 1), (LARGE + 3, LARGE + 2)])
def test_one_convolution_gives_the_noise_of_channels_and_colours(
    channels: int, size: tuple[int, int]
) -> None:
    images = draw_images(channels, *size)
    observation, pixels = Observation(images, torch.zeros(2, 3)), images.double().numpy()
    residual = filter_literally(pixels, FIFTH_ORDER)
    numbers = summarise_noise(observation)
    np.testing.assert_allclose(numbers[:, :7], summarise_literally(residual), atol=1e-4)
    pairs = range(0 if channels == 1 else 1 if channels == 2 else channels)
    for pair in pairs:
        first, second = residual[:, pair], residual[:, (pair + 1) % channels]
        lengths = np.sqrt((first**2).mean((1, 2)) * (second**2).mean((1, 2)))
        expected = (first * second).mean((1, 2)) / lengths
        np.testing.assert_allclose(numbers[:, 7 + pair], expected, atol=1e-4)
    assert numbers.shape == (2, 7 + len(pairs))
    if channels > 1:
        colours = filter_literally(pixels[:, 1:] - pixels[:, :-1], LAPLACIAN)
        np.testing.assert_allclose(
            summarise_colour_noise(observation), summarise_literally(colours), atol=1e-4
        )


def test_contrast_is_the_deviation_at_every_few_positions() -> None:
    features = torch.randn(2, 3, 57, 60, generator=torch.Generator().manual_seed(0))
    seen = features.double().numpy()[:, :, ::2, ::2]
    expected = np.log(seen.std((2, 3)) + 1e-3)
    for layout in (torch.contiguous_format, torch.channels_last):
        numbers = summarise_contrast(features.contiguous(memory_format=layout))
        np.testing.assert_allclose(numbers, expected, atol=1e-5)


def test_an_explanation_is_measured_strictly_above_each_level() -> None:
    masks = torch.tensor([[0.0, 0.1, 0.5, 0.5], [0.9, 0.95, 1.0, 0.2]]).view(1, 2, 4)
    logits, explained = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[5.0, 4.0, 1.0]])
    observation = Observation(masks[:, None], logits, [], masks, explained)
    (numbers,) = summarise_explanation(observation).tolist()
    flat = masks.flatten().double().numpy()
    above = [float((masks > level).double().mean()) for level in LEVELS]
    assert numbers == pytest.approx([flat.mean(), flat.std(), 1.0, *above, 4.0, 1.0], abs=1e-6)
    assert torch.equal(observation.masks, masks)  # nothing is overwritten


def test_a_check_without_gradients_leaves_kernels_that_carry_them() -> None:
    images = draw_images(4, 12, 13)  # channels that no other test has
    with torch.inference_mode():
        summarise_noise(Observation(images, torch.zeros(2, 3)))
    images.requires_grad_()
    summarise_noise(Observation(images, torch.zeros(2, 3))).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_a_trace_before_the_first_check_leaves_no_kernels_without_numbers() -> None:
    class Noise(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return summarise_noise(Observation(images, torch.zeros(2, 3)))

    images = draw_images(4, 9, 7)
    _stack_kernels.cache_clear()  # as in a process that only exports
    program = torch.export.export(Noise(), (images,)).module()
    numbers = Noise()(images)
    residual = filter_literally(images.double().numpy(), FIFTH_ORDER)
    np.testing.assert_allclose(numbers[:, :7], summarise_literally(residual), atol=1e-4)
    torch.testing.assert_close(program(images), numbers)
