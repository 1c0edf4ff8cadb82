"""ADIOS: views of one image have similar features, even if an adversary hides parts of one."""

from __future__ import annotations

import math
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from apercu import render
from apercu.networks.decoder import DecoderShape, UpStep
from apercu.networks.encoder import SmallEncoder
from apercu.pretraining.pretexts.base import Pretext, PretextBatch, PretextNetwork, PretextSample
from apercu.pretraining.pretexts.contrastive import ViewPair, build_projection, import_losses
from apercu.types import Images, Maps, Scores

AREA_MARGIN = 1e-3
"""Distance of areas from 0 and 1, where the cost is infinite; gradients stay."""


@final
class Adios(Pretext):
    """Embeds a view, and another one with parts hidden, by NT-Xent (Shi et al. 2022).

    A U-Net of the mask explainer's blocks divides each image into masks, which add up to one at
    every pixel. The backbone learns to give the same features to what is left as to the whole. The
    U-Net learns, by reversed gradients, to hide what makes this difficult, but neither nothing nor
    everything.

    Attributes:
        masks: number of parts into which images are divided.
        sparsity: weight of 1 / sin(π · area of a mask).
        adversary: factor of the U-Net's gradients, relative to the backbone's.
        views: random draw of the two views of an image.
        width: width of the projection that the loss receives.
        base: number of channels of the U-Net's first block.
    """

    form: Literal["adios"] = "adios"
    masks: int = Field(4, ge=2, le=64)
    sparsity: float = Field(0.1, ge=0)
    adversary: float = Field(1.0, gt=0)
    views: ViewPair = ViewPair()
    width: int = Field(128, ge=2, le=16384)
    base: int = Field(16, ge=1, le=1024)

    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        import_losses()
        return {
            "projection": build_projection(sample.features, self.width),
            "masker": Masker(sample.images.shape[1], self.masks, self.base),
        }

    def compute_losses(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        whole, view = self.views(batch.images, batch.generator)
        masks = network.parts["masker"](view)
        hidden = [
            hide_masked(view, GradientReversal.apply(mask, self.adversary))
            for mask in masks.unbind(1)
        ]
        projected = network.parts["projection"](network(torch.cat([whole, *hidden])))
        first, *others = projected.chunk(1 + self.masks)
        loss = import_losses()["nt_xent"]()
        distance = torch.stack([loss(first, other) for other in others]).mean()
        area = AREA_MARGIN + (1 - 2 * AREA_MARGIN) * masks.mean((2, 3))
        return {
            "apart": distance.expand(len(whole)),
            "sparsity": self.sparsity * (1 / torch.sin(math.pi * area)).mean(1),
        }

    def measure_errors(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        """Measure how often another image is nearer than the one with a part hidden."""
        whole, view = self.views(batch.images, batch.generator)
        masks = network.parts["masker"](view)
        project = network.parts["projection"]
        first = F.normalize(project(network(whole)), dim=1)
        wrong = []
        for mask in masks.unbind(1):
            other = F.normalize(project(network(hide_masked(view, mask))), dim=1)
            wrong.append(
                (first @ other.T).argmax(1) != torch.arange(len(first), device=first.device)
            )
        largest = masks.mean((2, 3)).amax(1)
        return {"mistaken": torch.stack(wrong).float().mean(0), "largest_mask": largest}

    def sample_tiles(self, network: PretextNetwork, batch: PretextBatch) -> list[render.Tile]:
        image = batch.images[0].cpu()
        masks = network.parts["masker"](batch.images[:1])[0].cpu()
        return [
            render.Tile(render.to_image(image), "image"),
            *(render.Tile(render.draw_overlay(image, m), f"area {m.mean():.2f}") for m in masks),
        ]


class Masker(nn.Module):
    """Computes masks that add up to one at every pixel.

    Args:
        channels: number of channels of the images.
        masks: number of masks.
        base: number of channels of the first of three blocks; each has twice those before.
    """

    def __init__(self, channels: int, masks: int, base: int) -> None:
        super().__init__()
        shape = DecoderShape(residual="compact", gate="deepest")
        self.encoder = SmallEncoder(channels, base, blocks=3)
        fine, middle, coarse = self.encoder.channels
        self.steps = nn.ModuleList(
            [UpStep(coarse, middle, middle, shape), UpStep(middle, fine, fine, shape)]
        )
        self.head = nn.Conv2d(fine, masks, 1)

    def forward(self, images: Images) -> Float[Tensor, "batch masks height width"]:
        *skips, features = self.encoder(images)
        for step, skip in zip(self.steps, reversed(skips), strict=True):
            features = step(features, skip, None)
        logits = F.interpolate(
            self.head(features), images.shape[2:], mode="bilinear", align_corners=False
        )
        return logits.softmax(1)


def hide_masked(images: Images, mask: Maps) -> Images:
    """Fade the masked pixels of images to the image's mean colour."""
    colour = images.mean((2, 3), keepdim=True)
    return torch.lerp(images, colour, mask.unsqueeze(1))


class GradientReversal(torch.autograd.Function):
    """The identity, which reverses gradients in the backward pass."""

    @staticmethod
    def forward(context: Any, values: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.factor * gradients[0], None
