"""Views of one image are alike, even if an adversary hides what matters of one of them."""

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
"""Share by which areas are kept from 0 and 1, where the cost is infinite; slopes stay."""


@final
class Adios(Pretext):
    """Joint embedding of a view and of another with parts hidden (Shi et al. 2022), by NT-Xent.

    A U-Net of the mask explainer's blocks divides each image into masks, a share of every pixel
    for each. The backbone learns to see what is left as the whole; the U-Net learns, by the
    reversed slopes, to hide what makes that hard, and not to hide nothing or everything.

    Attributes:
        masks: into how many parts images are divided.
        sparsity: weight of 1 / sin(π · area of a mask).
        adversary: how much stronger the U-Net's slopes are than the backbone's.
        views: how the two views of an image are drawn.
        width: of the projection that the loss sees.
        base: channels of the U-Net's first block.
    """

    form: Literal["adios"] = "adios"
    masks: int = Field(4, ge=2)
    sparsity: float = Field(0.1, ge=0)
    adversary: float = Field(1.0, gt=0)
    views: ViewPair = ViewPair()
    width: int = Field(128, ge=2)
    base: int = Field(16, ge=1)

    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        import_losses()
        return {
            "projection": build_projection(sample.features, self.width),
            "masker": Masker(sample.images.shape[1], self.masks, self.base),
        }

    def compute_losses(self, network: PretextNetwork, lesson: PretextBatch) -> dict[str, Scores]:
        whole, shown = self.views(lesson.images, lesson.generator)
        masks = network.parts["masker"](shown)
        hidden = [
            hide_masked(shown, GradientReversal.apply(mask, self.adversary))
            for mask in masks.unbind(1)
        ]
        projected = network.parts["projection"](network(torch.cat([whole, *hidden])))
        one, *others = projected.chunk(1 + self.masks)
        loss = import_losses()["nt_xent"]()
        apart = torch.stack([loss(one, other) for other in others]).mean()
        area = AREA_MARGIN + (1 - 2 * AREA_MARGIN) * masks.mean((2, 3))
        return {
            "apart": apart.expand(len(whole)),
            "sparsity": self.sparsity * (1 / torch.sin(math.pi * area)).mean(1),
        }

    def measure_errors(self, network: PretextNetwork, lesson: PretextBatch) -> dict[str, Scores]:
        """How often another image of the batch is nearer than the image with a part hidden."""
        whole, shown = self.views(lesson.images, lesson.generator)
        masks = network.parts["masker"](shown)
        project = network.parts["projection"]
        one = F.normalize(project(network(whole)), dim=1)
        wrong = []
        for mask in masks.unbind(1):
            other = F.normalize(project(network(hide_masked(shown, mask))), dim=1)
            wrong.append((one @ other.T).argmax(1) != torch.arange(len(one), device=one.device))
        largest = masks.mean((2, 3)).amax(1)
        return {"mistaken": torch.stack(wrong).float().mean(0), "largest_mask": largest}

    def tiles(self, network: PretextNetwork, lesson: PretextBatch) -> list[render.Tile]:
        image = lesson.images[0].cpu()
        masks = network.parts["masker"](lesson.images[:1])[0].cpu()
        return [
            render.Tile(render.to_image(image), "image"),
            *(render.Tile(render.draw_overlay(image, m), f"area {m.mean():.2f}") for m in masks),
        ]


class Masker(nn.Module):
    """Images → masks that add up to one everywhere.

    Args:
        channels: of the images.
        masks: how many.
        base: channels of the first block; each of the three has twice those before.
    """

    def __init__(self, channels: int, masks: int, base: int) -> None:
        super().__init__()
        shape = DecoderShape(residual="compact", gate="deepest")
        self.encoder = SmallEncoder(channels, base, blocks=3)
        one, two, three = self.encoder.channels
        self.steps = nn.ModuleList([UpStep(three, two, two, shape), UpStep(two, one, one, shape)])
        self.head = nn.Conv2d(one, masks, 1)

    def forward(self, images: Images) -> Float[Tensor, "batch masks height width"]:
        *skips, features = self.encoder(images)
        for step, skip in zip(self.steps, reversed(skips), strict=True):
            features = step(features, skip, None)
        logits = F.interpolate(
            self.head(features), images.shape[2:], mode="bilinear", align_corners=False
        )
        return logits.softmax(1)


def hide_masked(images: Images, mask: Maps) -> Images:
    """Images whose masked pixels fade to the image's mean colour."""
    colour = images.mean((2, 3), keepdim=True)
    return torch.lerp(images, colour, mask.unsqueeze(1))


class GradientReversal(torch.autograd.Function):
    """The same values, with slopes that are turned round on their way back."""

    @staticmethod
    def forward(context: Any, values: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return -context.factor * slopes[0], None
