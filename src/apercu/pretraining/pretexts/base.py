"""The base class of pretexts: further networks on the backbone, and a loss without labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor, nn

from apercu.classifiers import Classifier, InputSpec
from apercu.classifiers.probe import CHANNELS_LAST, TensorLayout
from apercu.render import Tile
from apercu.types import Images, Scores

Features: TypeAlias = Float[Tensor, "batch features"]
PretextTargets: TypeAlias = Float[Tensor, "batch values"]
"""Values for a regression; NaN where a value is missing."""


class PretextNetwork(nn.Module):
    """A backbone, and the parts that a pretext trains with it.

    Args:
        backbone: normalised images → features.
        input: size and normalisation of the backbone's images.
        layout: precision and order in memory in which the backbone takes them.
        parts: parts by name; only the backbone is kept after the training.
    """

    def __init__(
        self,
        backbone: nn.Module,
        input: InputSpec,
        parts: nn.ModuleDict,
        layout: TensorLayout = CHANNELS_LAST,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.backbone = backbone
        self.input = input
        self.parts = parts

    def forward(self, images: Images) -> Features:
        """Compute the features of images in [0, 1], `batch × features`."""
        features: Tensor = self.backbone(self.layout.normalise(images, self.input))
        return features


@dataclass(frozen=True)
class PretextBatch:
    """A batch of images, their targets, and the generator of every draw.

    Args:
        images: images in [0, 1].
        targets: values from a catalogue or a measurement, or the numbers of the images in their
            source, `batch × values`; None for no targets.
        generator: generator of every draw.
        progress: fraction of the training that is done.
    """

    images: Images
    targets: PretextTargets | None
    generator: Generator
    progress: float = 0.0


@dataclass(frozen=True)
class PretextSample:
    """A sample of the images, from which the parts of a pretext are built.

    Args:
        images: some images in [0, 1].
        features: number of features of the backbone.
        targets: targets of a sample of all images, `sample × values`; None for no targets.
        count: number of all images.
    """

    images: Images
    features: int
    targets: Float[Tensor, "sample values"] | None
    count: int


class Pretext(BaseModel, ABC):
    """Trains a backbone with targets that need no labels; prints as its own settings.

    Attributes:
        keeps_state: whether steps change more than weights, so that one device does them all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    keeps_state: ClassVar[bool] = False

    def check_backbone(self, backbone: Classifier) -> None:
        """Check, before anything is read or written, that the pretext can train a backbone.

        Raises:
            ConfigError: it cannot; the message says why.
        """

    def start_backbone(self, backbone: nn.Module, channels: int) -> None:
        """Change the weights that the training starts from; most pretexts leave them."""

    @abstractmethod
    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        """Build the parts that are trained with the backbone, by name."""

    @abstractmethod
    def compute_losses(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        """Compute the terms of the loss by name, one number per image; their sum is averaged."""

    @abstractmethod
    def measure_errors(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        """Measure the errors of the network by name, in familiar units; NaN for missing targets.

        A name that is a number is the index of a value of the targets.
        """

    @abstractmethod
    def sample_tiles(self, network: PretextNetwork, batch: PretextBatch) -> list[Tile]:
        """Return tiles that show the first image, and what the network makes of it."""


def turn_randomly(images: Images, generator: Generator) -> Images:
    """Turn each image by a random right angle, and mirror it or not."""
    turns = torch.randint(4, (len(images),), generator=generator)
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.stack(
        [
            (image.flip(2) if flip else image).rot90(int(turn), (1, 2))
            for image, turn, flip in zip(images, turns, mirrored.tolist(), strict=True)
        ]
    )
