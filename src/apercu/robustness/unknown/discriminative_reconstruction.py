"""Unknown images by what a reconstruction changes in the features of a discriminator: DCAE.

The "discriminative compact autoencoder" (ICPR 2020) reconstructs images of known kinds through the
internal layers of a GAN's discriminator in a compact latent space that does not collapse; the
novelty is the dissimilarity of image and reconstruction in the discriminator's features. The paper
reports better detection of new kinds, and of attacked images, than errors of pixels.

Its architecture and numbers were not at hand. Our choices: the discriminator learns to tell images
from reconstructions, with a hinge; the autoencoder learns errors of pixels and of all layers of the
discriminator; codes are compact as their lengths cost, and do not collapse as a variance below 1 of
each of their numbers costs, too; the score adds the squared differences of all layers, each in
units of the mean difference of known images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
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

ADVERSARIAL_WEIGHT = 0.01
"""Weight of looking real to the discriminator in the loss of the autoencoder."""
SMALLEST_UNIT = 1e-8
"""Smallest mean difference of a layer, so that a dead layer does not divide by 0."""


@final
@dataclass(frozen=True)
class DiscriminativeReconstruction(TrainedUnknownMethod):
    """The difference of image and reconstruction in the features of a discriminator (DCAE).

    Args:
        steps: steps of the training.
        batch: images of a step.
        rate: learning rate.
        code: numbers of a code.
        compactness: weight of the length and the variance of codes.
        seed: seed of weights and batches.
    """

    name = "discriminative_reconstruction"
    code: int = 64
    compactness: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self.name, 2, 1024, code=self.code)
        check_not_negative(self.compactness, f"{self.name}: compactness")

    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        pair = self._make_pair(known.classifier)
        steps = torch.optim.Adam(pair.discriminator.parameters(), self.rate, betas=(0.5, 0.9))

        def compute_loss(images: Images, labels: Targets) -> Tensor:
            codes, restored = pair.reconstruct(images)
            real, made = pair.discriminator(images), pair.discriminator(restored.detach())
            steps.zero_grad()
            torch.autograd.backward(F.relu(1 - real).mean() + F.relu(1 + made).mean())
            steps.step()
            error = (restored - images).square().mean() + pair.compare(images, restored).mean()
            looks_real = -pair.discriminator(restored).mean()
            collapsed = F.relu(1 - codes.std(0)).mean()
            compact = codes.square().mean() + collapsed
            return error + ADVERSARIAL_WEIGHT * looks_real + self.compactness * compact

        trained = [*pair.encoder.parameters(), *pair.decoder.parameters()]
        data = known.images, torch.zeros(len(known.images), dtype=torch.long)
        self.make_plan().train(trained, data, compute_loss, report, "autoencoder and discriminator")
        pair.eval().requires_grad_(False)
        differences = [
            pair.compare(images, pair.reconstruct(images)[1]) for images in known.read_batches()
        ]
        pair.units = torch.cat(differences).mean(0).clamp(min=SMALLEST_UNIT)
        return DiscriminativeReconstructionScorer(self, known.classifier, pair)

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        pair = self._make_pair(classifier)
        unpack_module(pair, "pair", tensors)
        return DiscriminativeReconstructionScorer(self, classifier, pair)

    def _make_pair(self, classifier: Classifier) -> DiscriminatedAutoencoder:
        return make_seeded(
            self.seed,
            lambda: DiscriminatedAutoencoder(classifier.channels, classifier.size, self.code),
        ).to(classifier.device)


class DiscriminatedAutoencoder(nn.Module):
    """An autoencoder with a discriminator, whose layers compare images.

    Args:
        channels: channels of the images.
        size: height and width of the images in pixels.
        code: numbers of a code.
    """

    units: Tensor

    def __init__(self, channels: int, size: tuple[int, int], code: int) -> None:
        super().__init__()
        self.encoder = ConvEncoder(channels, size, 32, code)
        self.decoder = ConvDecoder(self.encoder, code, channels)
        self.discriminator = ConvEncoder(channels, size, 32, 1)
        self.register_buffer("units", torch.ones(len(self.discriminator.blocks)))

    def reconstruct(self, images: Images) -> tuple[Tensor, Images]:
        """Return the codes of images, and the images that are made of them."""
        codes = self.encoder(images)
        return codes, self.decoder(codes)

    def compare(self, images: Images, others: Images) -> Float[Tensor, "batch layers"]:
        """Return the mean squared difference of two images in each layer of the discriminator."""
        pairs = zip(
            self.discriminator.compute_maps(images),
            self.discriminator.compute_maps(others),
            strict=True,
        )
        return torch.stack([(one - other).square().mean((1, 2, 3)) for one, other in pairs], 1)


@final
@dataclass(frozen=True, eq=False)
class DiscriminativeReconstructionScorer(UnknownScorer):
    """Differences of images and reconstructions in the layers of a discriminator.

    Args:
        method: the method.
        classifier: the classifier whose images they are; it is not looked at.
        pair: autoencoder and discriminator.
    """

    method: DiscriminativeReconstruction
    classifier: Classifier
    pair: DiscriminatedAutoencoder

    def compute_scores(self, images: Images) -> Scores:
        restored = self.pair.reconstruct(images)[1]
        return (self.pair.compare(images, restored) / self.pair.units).mean(1)

    def pack_tensors(self) -> dict[str, Tensor]:
        return pack_module(self.pair, "pair")
