"""Unknown images by an autoencoder that removes stains, with a map of what it removes.

Collin and De Vleeschouwer 2020 ("Improved anomaly detection by training an autoencoder with skip
connections on images corrupted with stain-shaped noise") cover a random ellipse with an irregular
edge by one colour, and train an autoencoder with skip connections to restore the clean image. What
it changes in a new image is anomalous: the map is the absolute residual, the score its length. They
report that skip connections keep sharp details, and that with stains they do not copy anomalies.

Our choices: a stain has half axes of 3 to 25 % of the image's side and an edge that waves; its
colour is drawn for each image; the error of training is the absolute one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.unknown.base import AnomalyMapScorer, KnownImages
from apercu.robustness.unknown.training import (
    ConvEncoder,
    TrainedUnknownMethod,
    make_seeded,
    pack_module,
    unpack_module,
)
from apercu.types import Images, Maps, Regions, Scores, Targets

AXES = (0.03, 0.25)
"""Smallest and largest half axis of a stain, as a fraction of the side of the image."""
WAVES, WAVINESS = 5, 0.2
"""Waves around the edge of a stain, and their height as a fraction of its radius."""


@final
@dataclass(frozen=True)
class StainNoise(TrainedUnknownMethod):
    """The residual of an autoencoder with skip connections that removes stains.

    Args:
        steps: steps of the training.
        batch: images of a step.
        rate: learning rate.
        seed: seed of weights, batches and stains.
    """

    name = "stain_noise"

    def __post_init__(self) -> None:
        super().__post_init__()

    def fit(
        self, known: KnownImages, report: ProgressCallback = ignore_progress
    ) -> StainNoiseScorer:
        network = self._make_network(known.classifier)

        def compute_loss(images: Images, labels: Targets) -> Tensor:
            return (network(add_stains(images)) - images).abs().mean()

        data = known.images, torch.zeros(len(known.images), dtype=torch.long)
        self.make_plan().train(network.parameters(), data, compute_loss, report, "stains removed")
        network.eval().requires_grad_(False)
        return StainNoiseScorer(self, known.classifier, network)

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> StainNoiseScorer:
        network = self._make_network(classifier)
        unpack_module(network, "network", tensors)
        return StainNoiseScorer(self, classifier, network)

    def _make_network(self, classifier: Classifier) -> SkipAutoencoder:
        return make_seeded(
            self.seed, lambda: SkipAutoencoder(classifier.channels, classifier.size)
        ).to(classifier.device)


class SkipAutoencoder(nn.Module):
    """An autoencoder whose decoder also receives the feature maps of the encoder.

    Args:
        channels: channels of the images.
        size: height and width of the images in pixels.
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.encoder = ConvEncoder(channels, size, 16, 1)
        self.encoder.head = nn.Identity()
        widths = self.encoder.widths
        blocks = []
        features = widths[-1]
        for below in reversed(widths[:-1]):
            inner = max(below, 16)
            blocks.append(
                nn.Sequential(
                    nn.Conv2d(features + below, inner, 3, padding=1),
                    nn.BatchNorm2d(inner),
                    nn.ReLU(),
                )
            )
            features = inner
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(features, channels, 3, padding=1)

    def forward(self, images: Images) -> Images:
        """Return the images as they would be without what is unusual."""
        maps = self.encoder.compute_maps(images)
        skips = [images, *maps[:-1]]
        features = maps[-1]
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            enlarged = nn.functional.interpolate(features, skip.shape[2:])
            features = block(torch.cat([enlarged, skip], 1))
        restored: Tensor = self.head(features).sigmoid()
        return restored


@final
@dataclass(frozen=True, eq=False)
class StainNoiseScorer(AnomalyMapScorer):
    """What an autoencoder removes from an image.

    Args:
        method: the method.
        classifier: the classifier whose images they are; it is not looked at.
        network: the autoencoder.
    """

    method: StainNoise
    classifier: Classifier
    network: SkipAutoencoder

    def compute_scores(self, images: Images) -> Scores:
        return (self.network(images) - images).square().sum((1, 2, 3)).sqrt()

    @property
    def has_maps(self) -> bool:
        return True

    def compute_maps(self, images: Images) -> Maps:
        return (self.network(images) - images).abs().mean(1)

    def pack_tensors(self) -> dict[str, Tensor]:
        return pack_module(self.network, "network")


def add_stains(images: Images) -> Images:
    """Cover a random ellipse with a waving edge in each image by one random colour.

    Args:
        images: images in [0, 1], `batch × channels × height × width`.

    Returns:
        Images of the same shape; random numbers are those of the present seed.
    """
    colours = torch.rand(len(images), images.shape[1], 1, 1).to(images)
    stains = draw_stains(len(images), (images.shape[2], images.shape[3])).to(images.device)
    return torch.where(stains[:, None], colours, images)


def draw_stains(count: int, size: tuple[int, int]) -> Regions:
    """Return random stains, `count × height × width`; each covers at least one pixel.

    Args:
        count: number of stains.
        size: height and width in pixels.

    Returns:
        Where each stain is.
    """
    rows = torch.arange(size[0])[None, :, None] / size[0]
    columns = torch.arange(size[1])[None, None, :] / size[1]
    centre, angle, phase = torch.rand(2, count, 1, 1), torch.rand(count, 1, 1), torch.rand(count)
    axes = AXES[0] + (AXES[1] - AXES[0]) * torch.rand(2, count, 1, 1)
    down, right = rows - centre[0], columns - centre[1]
    sine, cosine = (math.pi * angle).sin(), (math.pi * angle).cos()
    first = (down * cosine + right * sine) / axes[0]
    second = (right * cosine - down * sine) / axes[1]
    wave = WAVES * torch.atan2(second, first) + 2 * math.pi * phase[:, None, None]
    radius = (first.square() + second.square()).sqrt()
    nearest = radius.flatten(1).amin(1)[:, None, None]
    return (radius <= 1 + WAVINESS * wave.sin()) | (radius == nearest)
