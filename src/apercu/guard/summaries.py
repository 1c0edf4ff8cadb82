"""What a guard looks at: a few numbers of an image, its logits, its features and its mask.

All of them are plain tensor operations, so that they can be traced into an ONNX graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.types import Images, Logits, Maps, Scores

LAPLACIAN = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))
"""A second difference in both directions: smooth parts of an image become 0."""
FIFTH_ORDER = (
    (-1.0, 2.0, -2.0, 2.0, -1.0),
    (2.0, -6.0, 8.0, -6.0, 2.0),
    (-2.0, 8.0, -12.0, 8.0, -2.0),
    (2.0, -6.0, 8.0, -6.0, 2.0),
    (-1.0, 2.0, -2.0, 2.0, -1.0),
)
"""The kernel of 5 × 5 pixels of steganalysis (Fridrich & Kodovský 2012), which predicts a pixel
from its neighbours: what is left is noise."""
STEPS = (0.253, 0.503, 1.003, 2.003, 4.003, 8.003)
"""Thresholds of a residual, in steps of 8 bit; between those that images of 8 bit can have, so that
rounding decides nothing."""
SMALLEST = 1e-8
"""Variance below which there is no noise at all; a bound, as exporters drop so small a summand."""
LARGE = 128
"""Pixels of the short side from which on every second position is enough."""
POSITIONS = 28
"""Rows and columns of a feature map from which contrasts are measured, about."""
LEVELS = (0.1, 0.5, 0.9)
"""Levels of a mask whose regions are measured."""


class Residuals(NamedTuple):
    """What the neighbours of a pixel do not predict.

    Attributes:
        channels: noise of each channel, by `FIFTH_ORDER`, `batch × channels × height × width`.
        colours: noise of the differences of neighbouring channels, by `LAPLACIAN`.
    """

    channels: Tensor
    colours: Tensor


@dataclass(frozen=True, eq=False)
class Observation:
    """What one pass gives on a batch of images.

    Args:
        images: images in [0, 1], before any filter, `batch × channels × height × width`.
        logits: logits of the classifier, `batch × classes`.
        features: feature maps of the network that was observed, finest first; may be empty.
        masks: masks of the class predicted most, `batch × height × width`; None without an
            explainer of masks.
        explained: what the explainer itself takes for the logits, in its own units; None without
            one.
    """

    images: Images
    logits: Logits
    features: list[Tensor] = field(default_factory=list)
    masks: Maps | None = None
    explained: Logits | None = None

    @cached_property
    def residuals(self) -> Residuals:
        """The noise of the images, which several signals share."""
        return find_residuals(self.images)


def find_residuals(images: Images) -> Residuals:
    """Filter images by one convolution, which is faster than one for each kernel.

    Of large images every second row and column of the result is computed.

    Args:
        images: images in [0, 1], of at least 5 × 5 pixels.

    Returns:
        The noise of the channels and of their differences, at all positions of each kernel inside
        the images.
    """
    channels, (height, width) = images.shape[1], images.shape[2:]
    stride = 2 if min(height, width) >= LARGE else 1
    kernels = torch.tensor(_stack_kernels(channels), dtype=images.dtype, device=images.device)
    padding = kernels.shape[2] - len(LAPLACIAN)  # it lets the small kernel reach the last row
    inside = slice(padding // stride, None)  # and what it adds above and left is cut off again
    residuals = F.conv2d(images, kernels, stride=stride, padding=padding)[:, :, inside, inside]
    rows, columns = ((side - len(FIFTH_ORDER)) // stride + 1 for side in (height, width))
    return Residuals(residuals[:, :channels, :rows, :columns], residuals[:, channels:])


def summarise_noise(observation: Observation) -> Float[Tensor, "batch numbers"]:
    """Summarise what the neighbours of a pixel do not predict, and how channels share it.

    Args:
        observation: an observation of images in [0, 1].

    Returns:
        Logits of the fractions of small residuals, the logarithm of their variance, and the
        correlation of neighbouring channels, `batch × numbers`.
    """
    residual = observation.residuals.channels.flatten(2)
    return torch.cat([_summarise_residual(residual), _correlate_channels(residual)], 1)


def summarise_colour_noise(observation: Observation) -> Float[Tensor, "batch numbers"]:
    """Summarise the noise of the differences of neighbouring channels.

    The channels of a photograph change together, and most cameras and files keep colours coarser
    than brightness; what an attack adds to each channel is another noise.

    Args:
        observation: an observation of images in [0, 1] of at least two channels.

    Returns:
        Logits of the fractions of small residuals and the logarithm of their variance,
        `batch × numbers`.
    """
    return _summarise_residual(observation.residuals.colours.flatten(2))


def summarise_contrast(features: Tensor) -> Float[Tensor, "batch channels"]:
    """Return the logarithm of the standard deviation of each channel of a feature map."""
    step = max(1, min(features.shape[2:]) // POSITIONS)
    values = features[:, :, ::step, ::step]  # flattened it would be copied
    centred = values - values.mean((2, 3), keepdim=True)
    return (centred.square_().mean((2, 3)).sqrt() + 1e-3).log()


def average_features(features: Tensor) -> Float[Tensor, "batch channels"]:
    """Return the mean of each channel of a feature map."""
    return features.mean((2, 3))


def summarise_explanation(observation: Observation) -> Float[Tensor, "batch numbers"]:
    """Summarise the mask of the predicted class, and how far the explainer agrees with it.

    Args:
        observation: an observation with an explainer of masks.

    Returns:
        Mean, deviation and largest value of the mask, the fractions above some levels, what the
        explainer takes for the logit of the class, and by how much it prefers another one.
    """
    masks, explained = observation.masks, observation.explained
    if masks is None or explained is None:
        raise ValueError("the observation has no mask")
    flat = masks.flatten(1)
    mean = flat.mean(1, keepdim=True)
    spread = (flat - mean).square_().mean(1).sqrt()
    parts = [mean[:, 0], spread, flat.amax(1), *_find_fractions(torch.gt, flat, LEVELS)]
    own = explained.gather(1, observation.logits.argmax(1, keepdim=True))[:, 0]
    return torch.stack([*parts, own, explained.amax(1) - own], 1)


def measure_certainty(logits: Logits) -> Scores:
    """Return the largest logit above the mean of all: attacks that overshoot make it too large."""
    return logits.amax(1) - logits.mean(1)


def measure_energy(logits: Logits) -> Scores:
    """Return minus the log of the summed exponentials (Liu et al. 2020): high is vague."""
    return -logits.logsumexp(1)


def measure_uncertainty(logits: Logits) -> Scores:
    """Return the logarithm of the odds that the class predicted most is wrong.

    Unlike the energy it depends on the probabilities alone, which are all that some networks give.
    """
    top = logits.max(1, keepdim=True)
    others = logits.scatter(1, top.indices, float("-inf"))
    return others.logsumexp(1) - top.values[:, 0]


def measure_label_certainty(logits: Logits) -> Scores:
    """Return the largest distance of a logit from 0, where each class is decided by itself."""
    return logits.abs().amax(1)


def measure_label_uncertainty(logits: Logits) -> Scores:
    """Return the logarithm of the expected number of wrong decisions, one per class."""
    return F.logsigmoid(-logits.abs()).logsumexp(1)


def summarise_value(observation: Observation) -> Float[Tensor, "batch 1"]:
    """Return the value of a regression, as the logit of the target `higher`."""
    return observation.logits[:, 1:]


@lru_cache(maxsize=8)
def _stack_kernels(channels: int) -> Float[np.ndarray, "kernels channels 5 5"]:
    """Return the kernels of all residuals, each scaled so that its absolute values sum to 1.

    They are kept as an array, as a tensor that is made while a graph is traced holds no numbers.

    Args:
        channels: number of channels of the images.

    Returns:
        First one kernel per channel, then one per pair of neighbouring channels, each of all
        channels, which is faster than groups.
    """
    fifth_order, laplacian = (np.array(each, np.float32) for each in (FIFTH_ORDER, LAPLACIAN))
    side = len(laplacian)
    kernels = np.zeros((2 * channels - 1, channels, *fifth_order.shape), np.float32)
    for channel in range(channels):
        kernels[channel, channel] = fifth_order / np.abs(fifth_order).sum()
    for pair in range(channels - 1):
        kernels[channels + pair, pair + 1, :side, :side] = laplacian / np.abs(laplacian).sum()
        kernels[channels + pair, pair, :side, :side] = -laplacian / np.abs(laplacian).sum()
    return kernels


def _summarise_residual(
    residual: Float[Tensor, "batch channels positions"],
) -> Float[Tensor, "batch numbers"]:
    size = residual.flatten(1).abs()
    limits = [step / 255 for step in STEPS]
    fractions = torch.stack(_find_fractions(torch.lt, size, limits), 1)
    if size.requires_grad:  # an attacker who knows of the guard follows a soft step
        soft = [torch.sigmoid((limit - size) * (4 / limit)).mean(1) for limit in limits]
        fractions = fractions + torch.stack([step - step.detach() for step in soft], 1)
    odds = (fractions + 1e-3) / (1 - fractions + 1e-3)
    variance = size.square().mean(1, keepdim=True).clamp(min=SMALLEST)
    return torch.cat([odds, variance], 1).log()


def _correlate_channels(
    residual: Float[Tensor, "batch channels positions"],
) -> Float[Tensor, "batch pairs"]:
    """Return the correlation of each channel with the next, and of the last with the first."""
    channels = residual.shape[1]
    if channels == 1:
        return residual.new_zeros(residual.shape[0], 0)
    following = residual.roll(-1, 1)
    if channels == 2:
        residual, following = residual[:, :1], following[:, :1]
    product = (residual * following).mean(2)
    lengths = residual.square().mean(2) * following.square().mean(2)
    return product / lengths.sqrt().clamp(min=SMALLEST)


def _find_fractions(
    compare: Callable[..., Tensor],
    values: Float[Tensor, "batch positions"],
    limits: Sequence[float],
) -> list[Scores]:
    """Return the fraction of each row that is below each limit, or above it.

    Args:
        compare: `torch.lt` or `torch.gt`.
        values: what is compared; gradients stop here.
        limits: what they are compared with.

    Returns:
        One fraction per row for each limit.
    """
    values = values.detach()
    flags = torch.empty_like(values)  # zeros and ones are counted faster than Booleans
    return [compare(values, limit, out=flags).mean(1) for limit in limits]
