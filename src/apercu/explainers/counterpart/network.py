"""The generators of Charachon et al.: one body, and one head for each of the two images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from apercu.networks.blocks import build_conv_block
from apercu.networks.decoder import DecoderShape, UpStep, compute_strides
from apercu.networks.encoder import Encoder
from apercu.networks.gate import GatedNetwork
from apercu.types import Images, Scores, Targets

MAX_CHANGE = 0.5
"""Largest value of a change, for pixels in [0, 1], before it is enlarged."""
INITIAL_LOG_ODDS = -2.0
"""Log-odds that a cell is changed, before training."""


@dataclass(frozen=True)
class CounterpartShape:
    """Size of the generators, and what they can change.

    Args:
        width: channels after the first block; each further block has half of them.
        blocks: residual blocks after each doubling of the resolution.
        resolution: pixels of the image per cell of a change: the coarser, the less texture.
        separate: whether each of the two images has a body of its own.
        places: whether a mask of its own, in a further channel, says where a change is.
    """

    width: Annotated[int, Field(ge=1, le=4096)] = 96
    blocks: Annotated[int, Field(ge=1, le=64)] = 1
    resolution: Annotated[int, Field(ge=1, le=1024)] = 8
    separate: bool = False
    places: bool = True


@dataclass(frozen=True, eq=False)
class Change:
    """What is added to an image, at the generators' resolution.

    Attributes:
        values: values that are added, `batch × channels × rows × columns`.
        masks: where they are added, `batch × 1 × rows × columns` in [0, 1]; 1 everywhere where the
            shape has no `places`.
    """

    values: Float[Tensor, "batch channels rows columns"]
    masks: Float[Tensor, "batch 1 rows columns"]

    def __call__(self, images: Images) -> Images:
        """Return the changed images, within [0, 1]."""
        size = tuple(images.shape[-2:])
        added = F.interpolate(self.values, size, mode="bicubic", align_corners=False)
        return (images + added).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class CounterpartPair:
    """The two counterparts of some images.

    Attributes:
        similar: images that are meant to be predicted as the images are.
        adversarial: images that are meant to be predicted as the targets.
        change_masks: where the adversarial images were changed, see `Change`.
    """

    similar: Images
    adversarial: Images
    change_masks: Float[Tensor, "batch 1 rows columns"]


@final
class CounterpartNetwork(GatedNetwork):
    """Makes two counterparts of images from their predicted classes and the target classes.

    Args:
        encoder: the encoder of the features.
        classes: number of classes that the gate knows.
        channels: channels of the images.
        shape: size and kind of the bodies and heads.
        frozen: see `GatedNetwork`.
        adapter_width: see `GatedNetwork`.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        channels: int,
        shape: CounterpartShape,
        *,
        frozen: bool = True,
        adapter_width: int = 0,
    ) -> None:
        super().__init__(encoder, classes, "relative", frozen=frozen, adapter_width=adapter_width)
        self.decoder = Heads(encoder, channels, shape)
        for scalar in (self.gate.sharpness, self.gate.threshold):
            scalar.requires_grad_(False)  # activations are used here, not the gate itself

    def generate(
        self, images: Images, features: list[Tensor], predicted: Targets, targets: Targets
    ) -> CounterpartPair:
        """Return both counterparts of each image.

        Args:
            images: images in [0, 1].
            features: feature maps that `encode` returned, finest first.
            predicted: class that each image is predicted as.
            targets: class that its adversarial counterpart should be predicted as.

        Returns:
            The pair.
        """
        deepest = features[-1]
        before = self.gate.compute_activation(deepest, predicted)
        after = self.gate.compute_activation(deepest, targets)
        start = torch.cat([deepest, before, after], 1)
        similar, adversarial = self.decoder(start, features)
        return CounterpartPair(similar(images), adversarial(images), adversarial.masks)

    def forward(self, images: Images, predicted: Targets, targets: Targets) -> CounterpartPair:
        return self.generate(images, self.encode(images), predicted, targets)


class Heads(nn.Module):
    """Bodies and heads: from features to the two changes.

    Args:
        encoder: the encoder of the features.
        channels: channels of the images.
        shape: size and kind of the network.
    """

    def __init__(self, encoder: Encoder, channels: int, shape: CounterpartShape) -> None:
        super().__init__()
        self.body = Body(encoder, shape)
        self.other = Body(encoder, shape) if shape.separate else None
        self.similar = Head(self.body.width, channels, shape)
        self.adversarial = Head(self.body.width, channels, shape)

    def forward(self, start: Tensor, features: list[Tensor]) -> tuple[Change, Change]:
        shared = self.body(start, features)
        other = shared if self.other is None else self.other(start, features)
        return self.similar(shared), self.adversarial(other)


class Body(nn.Module):
    """The U-Net's way up, from the deepest features to the generators' resolution.

    Args:
        encoder: the encoder of the features.
        shape: size and kind of the network.
    """

    def __init__(self, encoder: Encoder, shape: CounterpartShape) -> None:
        super().__init__()
        blocks = DecoderShape(shape.width, shape.blocks, gate="deepest")
        skips = dict(zip(encoder.strides[:-1], encoder.channels[:-1], strict=True))
        self.deepest = build_conv_block(encoder.channels[-1] + 2, 2 * shape.width, size=1)
        self.steps = nn.ModuleList()
        self.finer = dict(zip(encoder.strides[:-1], range(len(skips)), strict=True))
        self.resolution = shape.resolution
        self.strides = compute_strides(encoder.strides[-1], shape.resolution)
        self.width = 2 * shape.width
        for number, stride in enumerate(self.strides):
            outputs = max(16, shape.width // 2**number)
            self.steps.append(UpStep(self.width, skips.get(stride, 0), outputs, blocks))
            self.width = outputs

    def forward(self, start: Tensor, features: list[Tensor]) -> Tensor:
        decoded = self.deepest(start)
        for step, stride in zip(self.steps, self.strides, strict=True):
            index = self.finer.get(stride)
            decoded = step(decoded, None if index is None else features[index], None)
        return decoded


class Head(nn.Module):
    """From features to a change; before training it changes nothing.

    Args:
        width: channels of the features.
        channels: channels of the images.
        shape: size and kind of the network.
    """

    def __init__(self, width: int, channels: int, shape: CounterpartShape) -> None:
        super().__init__()
        self.before = nn.Sequential(build_conv_block(width, 32), build_conv_block(32, 16))
        self.last = nn.Conv2d(16, channels + shape.places, 1)
        self.channels = channels
        nn.init.zeros_(self.last.weight)
        bias = torch.zeros(channels + shape.places)
        bias[channels:] = INITIAL_LOG_ODDS
        self.last.bias = nn.Parameter(bias)

    def forward(self, features: Tensor) -> Change:
        output = self.last(self.before(features))
        values = MAX_CHANGE * output[:, : self.channels].tanh()
        if output.shape[1] == self.channels:
            return Change(values, torch.ones_like(values[:, :1]))
        masks = output[:, self.channels :].sigmoid()
        return Change(values * masks, masks)


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
