"""Who judges counterparts in training: the classifier in any weather, and a discriminator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from apercu.types import Images, Scores, Targets

MIN_SCALE, NOISE_DEVIATION, MAX_SHIFT = 0.5, 0.03, 2
"""Coarsest detail as a share of the side; deviation of the noise; pixels of the shift."""


def randomly_perturb(images: Images, generator: Generator) -> Images:
    """Each image a little blurred, shifted and noisy: a change that matters survives that.

    The same weather for an image and its counterparts needs a generator in the same state.
    """
    height, width = images.shape[2:]
    blur, noise = torch.rand(2, len(images), 1, 1, 1, generator=generator).to(images)
    shifts = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2,), generator=generator).tolist()
    small = F.interpolate(images, scale_factor=MIN_SCALE, mode="bilinear", antialias=True)
    coarse = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    seen = torch.lerp(images, coarse, blur)
    seen = F.pad(seen, (MAX_SHIFT,) * 4, mode="replicate")
    down, right = (MAX_SHIFT + shift for shift in shifts)
    seen = seen[:, :, down : down + height, right : right + width]
    grain = torch.randn(images.shape, generator=generator).to(images)
    return (seen + NOISE_DEVIATION * noise * grain).clamp(0, 1)


class Discriminator(nn.Module):
    """Real images seen as a class, or counterparts meant to be, patch by patch.

    Strided convolutions with LeakyReLU and no normalisation, widths of Charachon et al. 2021, whose
    two discriminators become one that is told the class: a patch's score is a class's own direction
    in its features, added to what all classes share (Miyato and Koyama 2018).

    Args:
        channels: of the images.
        classes: number of them.
        widths: of the convolutions, each of which halves the resolution.
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
        found = self.layers(2 * images - 1)
        return self.shared(found)[:, 0] + torch.einsum("bcij,bc->bij", found, self.own(targets))


def discriminator_loss(
    discriminator: nn.Module, real: Images, predicted: Targets, generated: Images, targets: Targets
) -> Scores:
    """How badly the discriminator tells real images from made ones; teaches it alone."""
    on_real = discriminator(real, predicted).flatten(1)
    on_made = discriminator(generated.detach(), targets).flatten(1)
    return F.softplus(-on_real).mean(1) + F.softplus(on_made).mean(1)


def generator_loss(discriminator: nn.Module, generated: Images, targets: Targets) -> Scores:
    """How clearly the discriminator sees that images are made; teaches who made them alone."""
    judge = {name: values.detach() for name, values in discriminator.named_parameters()}
    found = torch.func.functional_call(discriminator, judge, (generated, targets))
    return F.softplus(-found.flatten(1)).mean(1)
