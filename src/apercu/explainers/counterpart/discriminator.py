"""The discriminator of counterparts, and the random perturbation before the classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from apercu.types import Images, Scores, Targets

MIN_SCALE, NOISE_DEVIATION, MAX_SHIFT = 0.5, 0.03, 2
"""Smallest scale of the blur; standard deviation of the noise; pixels of the shift."""


def randomly_perturb(images: Images, generator: Generator) -> Images:
    """Return each image a little blurred, shifted and noisy: a change that matters survives that.

    Args:
        images: images in [0, 1].
        generator: source of the draws; a generator in the same state gives the same perturbation.

    Returns:
        The perturbed images in [0, 1].
    """
    height, width = images.shape[2:]
    blur, noise = torch.rand(2, len(images), 1, 1, 1, generator=generator).to(images)
    shifts = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2,), generator=generator).tolist()
    small = F.interpolate(images, scale_factor=MIN_SCALE, mode="bilinear", antialias=True)
    coarse = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    perturbed = torch.lerp(images, coarse, blur)
    perturbed = F.pad(perturbed, (MAX_SHIFT,) * 4, mode="replicate")
    down, right = (MAX_SHIFT + shift for shift in shifts)
    perturbed = perturbed[:, :, down : down + height, right : right + width]
    grain = torch.randn(images.shape, generator=generator).to(images)
    return (perturbed + NOISE_DEVIATION * noise * grain).clamp(0, 1)


class Discriminator(nn.Module):
    """Separates real images of a class from generated ones, patch by patch.

    Strided convolutions with LeakyReLU and no normalisation, with the widths of Charachon et al.
    2021. Their two discriminators become one that knows the class: the score of a patch is a linear
    function of its features for each class, added to one that all classes share (Miyato and Koyama
    2018).

    Args:
        channels: channels of the images.
        classes: number of classes.
        widths: channels of the convolutions, each of which halves the resolution.
    """

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *widths[:-1]), widths, strict=True):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.shared = nn.Conv2d(widths[-1], 1, 1)
        self.own = nn.Embedding(classes, widths[-1])
        nn.init.zeros_(self.own.weight)

    def forward(self, images: Images, targets: Targets) -> Float[Tensor, "batch rows columns"]:
        features = self.layers(2 * images - 1)
        own = torch.einsum("bcij,bc->bij", features, self.own(targets))
        return self.shared(features)[:, 0] + own


def discriminator_loss(
    discriminator: nn.Module, real: Images, predicted: Targets, generated: Images, targets: Targets
) -> Scores:
    """Return the loss of the discriminator on real and generated images; trains only it."""
    on_real = discriminator(real, predicted).flatten(1)
    on_generated = discriminator(generated.detach(), targets).flatten(1)
    return F.softplus(-on_real).mean(1) + F.softplus(on_generated).mean(1)


def generator_loss(discriminator: nn.Module, generated: Images, targets: Targets) -> Scores:
    """Return the loss of the generator: how surely the discriminator detects generated images."""
    fixed = {name: values.detach() for name, values in discriminator.named_parameters()}
    scores = torch.func.functional_call(discriminator, fixed, (generated, targets))
    return F.softplus(-scores.flatten(1)).mean(1)
