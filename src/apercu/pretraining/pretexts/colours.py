"""Colours: some bands of an image are predicted from the others."""

from __future__ import annotations

import copy
from typing import Literal, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from apercu import render
from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.networks.blocks import build_conv_block
from apercu.pretraining.pretexts.base import (
    Pretext,
    PretextBatch,
    PretextNetwork,
    PretextSample,
    turn_randomly,
)
from apercu.types import Images, Scores

FIRST_SIDE = 4
"""Rows and columns of the decoder's first map."""


@final
class Colours(Pretext):
    """Predicts some bands of an image from the others (Vincenzi et al. 2020).

    Claim of the paper: a network that predicts the colours of satellite images from the other
    bands is a better start than ImageNet where labels are few, and better still in an ensemble with
    a network that sees the colours. The hidden bands are plain for the network: its features come
    from the others, and the pretrained network has weights of zero for the hidden bands. For the
    ensemble, join its features with those of another network (`evaluate-features --join`), such as
    one that was pretrained with the other bands hidden.

    Ours: the decoder makes a small map from all features at once, starting from the usual colour of
    each position, and the target is the band itself, not a and b of CIELAB.

    Attributes:
        hidden: numbers of the bands that are predicted, from 0; at least one other must be left.
        side: rows and columns of the predicted map.
        turned: whether images are turned by right angles and mirrored, as seen from above.
        loss: `absolute` differences as in the paper, or `squared` ones where little of an image is
            anything but plain: the usual colour, which is their median or mean, is then a worse
            answer.
        dropout: fraction of the features that a step leaves out.
        width: number of channels of the decoder.
    """

    form: Literal["colours"] = "colours"
    hidden: tuple[int, ...] = Field((0,), min_length=1)
    side: int = Field(16, ge=4, le=256)
    turned: bool = True
    loss: Literal["absolute", "squared"] = "absolute"
    dropout: float = Field(0.3, ge=0, lt=1)
    width: int = Field(64, ge=1, le=4096)

    def check_backbone(self, backbone: Classifier) -> None:
        self._check_bands(backbone.channels)
        module = backbone.module
        if not isinstance(module, nn.Module):
            raise ClassifierError(f"colours: {backbone.spec} does not show its layers")
        trial = copy.deepcopy(module).eval()
        self.start_backbone(trial, backbone.channels)
        size = (2, backbone.channels, *backbone.network.input.size)
        first = torch.zeros(size, device=backbone.device)
        second = first.clone()
        second[:, list(self.hidden)] = 1
        with torch.no_grad():
            if not torch.equal(trial(first), trial(second)):
                raise ConfigError(
                    f"colours: expected a network whose first layer takes all bands, got "
                    f"{backbone.spec}"
                )

    def start_backbone(self, backbone: nn.Module, channels: int) -> None:
        """Set the weights of the hidden bands to zero; plain bands keep them there."""
        forget_bands(backbone, self.hidden, channels)

    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        self._check_bands(sample.images.shape[1])
        targets = self._make_targets(sample.images)
        usual = targets.mean(0) if self.loss == "squared" else targets.median(0).values
        return {"decoder": ColourDecoder(sample.features, self.width, usual)}

    def compute_losses(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        images = turn_randomly(batch.images, batch.generator) if self.turned else batch.images
        features = network(self.hide(images, network))
        if self.dropout:
            kept = torch.rand(features.shape, generator=batch.generator) >= self.dropout
            features = features * kept.to(features) / (1 - self.dropout)
        predicted = network.parts["decoder"](features)
        return {"colour": self._compare(predicted, self._make_targets(images))}

    def measure_errors(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        """Measure mean errors of pixels in [0, 1], and those of the usual colour."""
        targets = self._make_targets(batch.images)
        errors = self._compare(self.predict(network, batch.images), targets)
        decoder = cast(ColourDecoder, network.parts["decoder"])
        constant = self._compare(decoder.usual, targets)
        return {"colour": errors, "constant_colour": constant}

    def sample_tiles(self, network: PretextNetwork, batch: PretextBatch) -> list[render.Tile]:
        target = self._make_targets(batch.images[:1])[0].cpu()
        predicted = self.predict(network, batch.images[:1])[0].clamp(0, 1).cpu()
        return [
            render.Tile(render.to_image(batch.images[0].cpu()), "image"),
            *(
                render.Tile(render.to_image(values[None]), f"band {band}, {title}")
                for row, band in enumerate(self.hidden)
                for values, title in ((target[row], "true"), (predicted[row], "predicted"))
            ),
        ]

    def hide(self, images: Images, network: PretextNetwork) -> Images:
        """Give the hidden bands the value that the network's input has as 0."""
        bands = list(self.hidden)
        plain = images.clone()
        means = torch.tensor(network.input.mean).to(images)
        plain[:, bands] = means[bands][:, None, None]
        return plain

    def predict(
        self, network: PretextNetwork, images: Images
    ) -> Float[Tensor, "batch hidden rows columns"]:
        """Predict the hidden bands of images, at the decoder's own size."""
        predicted: Tensor = network.parts["decoder"](network(self.hide(images, network)))
        return predicted

    def _make_targets(self, images: Images) -> Float[Tensor, "batch hidden rows columns"]:
        return F.adaptive_avg_pool2d(images[:, list(self.hidden)], self.side)

    def _compare(self, predicted: Tensor, targets: Tensor) -> Scores:
        differences = predicted - targets
        errors = differences.square() if self.loss == "squared" else differences.abs()
        return errors.mean((1, 2, 3))

    def _check_bands(self, channels: int) -> None:
        """Check that the hidden bands exist, and that others are left."""
        bands = set(self.hidden)
        if len(bands) < len(self.hidden) or not bands < set(range(channels)):
            raise ConfigError(
                f"colours: hidden: expected different numbers below {channels}, and fewer than "
                f"{channels} of them, got {', '.join(map(str, self.hidden))}"
            )


class ColourDecoder(nn.Module):
    """Computes a small map of bands from all features of an image.

    Args:
        features: number of features.
        width: number of channels.
        usual: usual values of the bands, `bands × rows × columns`, to which the output is added.
    """

    usual: Float[Tensor, "bands rows columns"]

    def __init__(self, features: int, width: int, usual: Tensor) -> None:
        super().__init__()
        self.register_buffer("usual", usual)
        self.start = nn.Linear(features, width * FIRST_SIDE**2)
        side, steps = FIRST_SIDE, []
        while side < usual.shape[1]:
            steps.append(build_conv_block(width, width))
            side *= 2
        self.steps = nn.ModuleList(steps)
        self.head = nn.Conv2d(width, len(usual), 1)
        with torch.no_grad():  # starts near the usual colours
            self.head.weight.mul_(0.1)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(
        self, features: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch bands rows columns"]:
        maps = self.start(features).unflatten(1, (-1, FIRST_SIDE, FIRST_SIDE)).relu()
        for step in self.steps:
            maps = step(F.interpolate(maps, scale_factor=2, mode="bicubic", align_corners=False))
        size = self.usual.shape[1:]
        if maps.shape[2:] != size:
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        return self.usual + self.head(maps)


@torch.no_grad()
def forget_bands(module: nn.Module, bands: tuple[int, ...], channels: int) -> None:
    """Set the weights of some bands to zero in a network's first convolution.

    Args:
        module: network, which is changed.
        bands: numbers of the bands, from 0.
        channels: number of all bands.

    Raises:
        ConfigError: the first convolution does not take all bands.
    """
    layers = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    first = next(layers, None)
    if first is None or first.weight.shape[1] != channels:
        raise ConfigError(
            f"colours: expected a network whose first layer is a convolution of {channels} bands"
        )
    first.weight[:, list(bands)] = 0
