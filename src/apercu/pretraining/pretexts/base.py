"""What every pretext is: parts beside the backbone, and a loss that needs no labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor, nn

from apercu.classifiers import InputSpec
from apercu.classifiers.preprocessing import normalise
from apercu.render import Tile
from apercu.types import Images, Scores

Features: TypeAlias = Float[Tensor, "batch features"]
PretextTargets: TypeAlias = Float[Tensor, "batch values"]
"""What is to be regressed, NaN where it is missing."""


class PretextNetwork(nn.Module):
    """A backbone, and what a pretext needs beside it, both in training.

    Args:
        backbone: normalised images → features.
        input: what the backbone expects.
        parts: by name; their statistics and weights are dropped in the end.
    """

    def __init__(self, backbone: nn.Module, input: InputSpec, parts: nn.ModuleDict) -> None:
        super().__init__()
        self.backbone = backbone
        self.input = input
        self.parts = parts

    def forward(self, images: Images) -> Features:
        """Features of images in [0, 1]."""
        shown = normalise(images, self.input).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.backbone(shown)
        return features


@dataclass(frozen=True)
class PretextBatch:
    """One batch.

    Args:
        images: in [0, 1].
        found: what the catalogue or a measurement says of them; None where nothing is wanted.
        generator: of every draw.
    """

    images: Images
    targets: PretextTargets | None
    generator: Generator


@dataclass(frozen=True)
class PretextSample:
    """What the parts of a pretext are made for.

    Args:
        images: a few, in [0, 1].
        features: how many the backbone gives.
        found: what is wanted of a sample of all images; None where nothing is.
    """

    images: Images
    features: int
    targets: Float[Tensor, "sample values"] | None


class Pretext(BaseModel, ABC):
    """Teaches a backbone by targets that come for free; prints as its own settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        """What is trained along with the backbone."""

    @abstractmethod
    def compute_losses(self, network: PretextNetwork, lesson: PretextBatch) -> dict[str, Scores]:
        """Named parts of the loss, one number per image; the loss is the mean of their sum."""

    @abstractmethod
    def measure_errors(self, network: PretextNetwork, lesson: PretextBatch) -> dict[str, Scores]:
        """How far off the network is, in units that a person knows; NaN where nothing is known.

        A name that is a number is the place of a value that was wanted.
        """

    @abstractmethod
    def tiles(self, network: PretextNetwork, lesson: PretextBatch) -> list[Tile]:
        """The first image, and what the network makes of it."""


ViewFn: TypeAlias = Callable[[Images, Generator], Images]


def turn_randomly(images: Images, generator: Generator) -> Images:
    """Each image in one of its eight positions: turned by right angles, mirrored or not."""
    turns = torch.randint(4, (len(images),), generator=generator)
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.stack(
        [
            (image.flip(2) if flip else image).rot90(int(turn), (1, 2))
            for image, turn, flip in zip(images, turns, mirrored.tolist(), strict=True)
        ]
    )
