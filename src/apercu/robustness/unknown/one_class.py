"""Unknown images by one joint representation of all that is known.

One-class representations describe the known images alone: Deep SVDD (Ruff et al. 2018) learns
features that lie near to one centre, and autoencoders learn features from which the image can be
restored. A joint representation does both, so that the features can neither collapse into the
centre nor keep what all images have.

The paper on a one-class joint representation was not at hand, so all is our choice: one encoder,
whose codes are pulled to the mean of the first codes and are decoded at the same time; the score
adds the distance from the centre and the error of the reconstruction, each in units of its mean
over known images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.filters.checks import check_not_negative, check_whole
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.unknown.base import KnownImages, UnknownScorer
from apercu.robustness.unknown.training import (
    ConvDecoder,
    ConvEncoder,
    TrainedUnknownMethod,
    make_seeded,
    pack_module,
    unpack_module,
)
from apercu.types import Images, Scores, Targets

SMALLEST_UNIT = 1e-8
"""Smallest mean of a part of the score, so that nothing is divided by 0."""


@final
@dataclass(frozen=True)
class OneClassRepresentation(TrainedUnknownMethod):
    """The distance from the centre of a representation, and the error of its reconstruction.

    Args:
        steps: steps of the training.
        batch: images of a step.
        rate: learning rate.
        code: numbers of a code.
        compactness: weight of the distance from the centre beside the reconstruction.
        seed: seed of weights and batches.
    """

    name = "one_class"
    code: int = 64
    compactness: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self.name, 2, 1024, code=self.code)
        check_not_negative(self.compactness, f"{self.name}: compactness")

    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        joint = self._make_joint(known.classifier)
        with torch.no_grad():
            codes = [joint.encoder(images) for images in known.read_batches()]
            joint.centre = torch.cat(codes).mean(0)

        def compute_loss(images: Images, labels: Targets) -> Tensor:
            distance, error = joint.measure_parts(images).mean(0)
            return error + self.compactness * distance

        data = known.images, torch.zeros(len(known.images), dtype=torch.long)
        self.make_plan().train(joint.parameters(), data, compute_loss, report, "one-class network")
        joint.eval().requires_grad_(False)
        parts = [joint.measure_parts(images) for images in known.read_batches()]
        joint.units = torch.cat(parts).mean(0).clamp(min=SMALLEST_UNIT)
        return OneClassScorer(self, known.classifier, joint)

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        joint = self._make_joint(classifier)
        unpack_module(joint, "joint", tensors)
        return OneClassScorer(self, classifier, joint)

    def _make_joint(self, classifier: Classifier) -> JointRepresentation:
        return make_seeded(
            self.seed, lambda: JointRepresentation(classifier.channels, classifier.size, self.code)
        ).to(classifier.device)


class JointRepresentation(nn.Module):
    """An encoder whose codes have a centre and are decoded.

    Args:
        channels: channels of the images.
        size: height and width of the images in pixels.
        code: numbers of a code.
    """

    centre: Tensor
    units: Tensor

    def __init__(self, channels: int, size: tuple[int, int], code: int) -> None:
        super().__init__()
        self.encoder = ConvEncoder(channels, size, 32, code)
        self.decoder = ConvDecoder(self.encoder, code, channels)
        self.register_buffer("centre", torch.zeros(code))
        self.register_buffer("units", torch.ones(2))

    def measure_parts(self, images: Images) -> Float[Tensor, "batch 2"]:
        """Return the mean squared distance from the centre, and that of the reconstruction."""
        codes = self.encoder(images)
        error = (self.decoder(codes) - images).square().mean((1, 2, 3))
        return torch.stack([(codes - self.centre).square().mean(1), error], 1)


@final
@dataclass(frozen=True, eq=False)
class OneClassScorer(UnknownScorer):
    """Distances and errors of a joint representation.

    Args:
        method: the method.
        classifier: the classifier whose images they are; it is not looked at.
        joint: the representation.
    """

    method: OneClassRepresentation
    classifier: Classifier
    joint: JointRepresentation

    def compute_scores(self, images: Images) -> Scores:
        return (self.joint.measure_parts(images) / self.joint.units).mean(1)

    def pack_tensors(self) -> dict[str, Tensor]:
        return pack_module(self.joint, "joint")
