"""What a guard looks at: a few numbers of an image, its logits, its features and its mask.

All of them are plain tensor operations, so that they can be traced into an ONNX graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
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


def summarise_noise(images: Images) -> Float[Tensor, "batch numbers"]:
    """Summarise what the neighbours of a pixel do not predict, and how channels share it.

    Args:
        images: images in [0, 1].

    Returns:
        Logits of the fractions of small residuals, the logarithm of their variance, and the
        correlation of neighbouring channels, `batch × numbers`.
    """
    residual = _filter_channels(images, FIFTH_ORDER)
    return torch.cat([_summarise_residual(residual), _correlate_channels(residual)], 1)


def summarise_colour_noise(images: Images) -> Float[Tensor, "batch numbers"]:
    """Summarise the noise of the differences of neighbouring channels.

    The channels of a photograph change together, and most cameras and files keep colours coarser
    than brightness; what an attack adds to each channel is another noise.

    Args:
        images: images in [0, 1] of at least two channels.

    Returns:
        Logits of the fractions of small residuals and the logarithm of their variance,
        `batch × numbers`.
    """
    return _summarise_residual(_filter_channels(images[:, 1:] - images[:, :-1], LAPLACIAN))


def summarise_contrast(features: Tensor) -> Float[Tensor, "batch channels"]:
    """Return the logarithm of the standard deviation of each channel of a feature map."""
    step = max(1, min(features.shape[2:]) // POSITIONS)
    values = features[:, :, ::step, ::step].flatten(2)
    spread = values - values.mean(2, keepdim=True)
    return (spread.square().mean(2).sqrt() + 1e-3).log()


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
    spread = (flat - mean).square().mean(1).sqrt()
    parts = [mean[:, 0], spread, flat.amax(1)]
    parts += [_count_fraction(flat > level).to(flat) for level in LEVELS]
    own = explained.gather(1, observation.logits.argmax(1, keepdim=True))[:, 0]
    return torch.stack([*parts, own, explained.amax(1) - own], 1)


def measure_certainty(logits: Logits) -> Scores:
    """Return the largest logit above the mean of all: attacks that overshoot make it too large."""
    return logits.amax(1) - logits.mean(1)


def measure_energy(logits: Logits) -> Scores:
    """Return minus the log of the summed exponentials (Liu et al. 2020): high is vague."""
    return -logits.logsumexp(1)


def _filter_channels(images: Images, kernel: tuple[tuple[float, ...], ...]) -> Tensor:
    """Filter each channel with a kernel whose absolute values sum to 1.

    Of large images every second row and column of the result is computed.
    """
    channels, zeros = range(images.shape[1]), tuple((0.0,) * len(row) for row in kernel)
    weights = torch.tensor(  # one for each pair of channels is faster than groups
        [[kernel if own == other else zeros for other in channels] for own in channels]
    ).to(images)
    stride = 2 if min(images.shape[2:]) >= LARGE else 1
    return F.conv2d(images, weights / weights[0].abs().sum(), stride=stride)


def _summarise_residual(residual: Tensor) -> Float[Tensor, "batch numbers"]:
    size = residual.abs().flatten(1)
    numbers = []
    for step in STEPS:
        fraction = _count_fraction(size < step / 255).to(size)
        if size.requires_grad:  # an attacker who knows of the guard follows a soft step
            soft = torch.sigmoid((step / 255 - size) * (4 * 255 / step)).mean(1)
            fraction = fraction + (soft - soft.detach())
        numbers.append(((fraction + 1e-3) / (1 - fraction + 1e-3)).log())
    numbers.append(size.square().mean(1).clamp(min=SMALLEST).log())
    return torch.stack(numbers, 1)


def _correlate_channels(residual: Tensor) -> Float[Tensor, "batch pairs"]:
    """Return the correlation of each channel with the next, and of the last with the first."""
    channels = residual.shape[1]
    if channels == 1:
        return residual.new_zeros(len(residual), 0)
    following = torch.cat([residual[:, 1:], residual[:, :1]], 1)
    if channels == 2:
        residual, following = residual[:, :1], following[:, :1]
    product = (residual * following).mean((2, 3))
    lengths = residual.square().mean((2, 3)) * following.square().mean((2, 3))
    return product / lengths.sqrt().clamp(min=SMALLEST)


def _count_fraction(flags: Bool[Tensor, "batch pixels"]) -> Scores:
    """Return the fraction of each row that is true; counts are faster than means."""
    return flags.sum(1, dtype=torch.int32) / flags.shape[1]
