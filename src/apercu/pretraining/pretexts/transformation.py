"""Regression of how an image was rotated, moved and scaled."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from apercu import render
from apercu.pretraining.pretexts.base import Pretext, PretextBatch, PretextNetwork, PretextSample
from apercu.types import Images, Scores

HIDDEN = 256
NAMES = ("cos", "sin", "down", "across", "size")


@final
class Transformation(Pretext):
    """Predicts a rotation, translation and scale from the features of both images.

    The parameters are continuous (Guo et al. 2020). Images are mirrored at their borders, so that
    no black corner gives the rotation away.

    Attributes:
        turn: largest rotation either way, in degrees.
        shift: largest translation, as a fraction of the side.
        scale: largest enlargement, and its inverse the largest reduction.
    """

    form: Literal["transformation"] = "transformation"
    turn: float = Field(180.0, ge=0, le=180)
    shift: float = Field(0.15, ge=0, lt=0.5)
    scale: float = Field(1.4, ge=1)

    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        layers = (nn.Linear(2 * sample.features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(NAMES)))
        return {"head": nn.Sequential(*layers)}

    def compute_losses(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        moved, targets = self.transform(batch.images, batch.generator)
        errors = (self._predict(network, batch.images, moved) - targets).square()
        return {"turn": errors[:, :2].sum(1), "shift": errors[:, 2:4].sum(1), "size": errors[:, 4]}

    def measure_errors(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        moved, targets = self.transform(batch.images, batch.generator)
        predicted = self._predict(network, batch.images, moved)
        turned = torch.atan2(predicted[:, 1], predicted[:, 0]) - torch.atan2(
            targets[:, 1], targets[:, 0]
        )
        turned = torch.rad2deg((turned + math.pi).remainder(2 * math.pi) - math.pi).abs()
        shifted = self.shift * (predicted[:, 2:4] - targets[:, 2:4]).norm(dim=1)
        sized = math.log(self.scale) * (predicted[:, 4] - targets[:, 4]).abs()
        return {"degrees": turned, "share_of_side": shifted, "log_scale": sized}

    def sample_tiles(self, network: PretextNetwork, batch: PretextBatch) -> list[render.Tile]:
        moved, targets = self.transform(batch.images, batch.generator)
        predicted = self._predict(network, batch.images, moved)
        degrees = [
            float(torch.rad2deg(torch.atan2(row[0, 1], row[0, 0]))) for row in (predicted, targets)
        ]
        return [
            render.Tile(render.to_image(batch.images[0].cpu()), "image"),
            render.Tile(render.to_image(moved[0].cpu()), f"{degrees[0]:.0f}° ({degrees[1]:.0f}°)"),
        ]

    def transform(
        self, images: Images, generator: Generator
    ) -> tuple[Images, Float[Tensor, "batch parameters"]]:
        """Transform images at random; return them, and the parameters in the order of `NAMES`.

        The parameters are cosine and sine of the angle, counter-clockwise; the translation of the
        content down and across, in units of the largest; and the logarithm of its enlargement, in
        units of the largest.
        """
        count = len(images)
        draws = 2 * torch.rand(count, 4, generator=generator) - 1
        angle = torch.deg2rad(self.turn * draws[:, 0])
        targets = torch.cat([angle.cos()[:, None], angle.sin()[:, None], draws[:, 1:]], 1)
        targets = targets.to(images)
        return warp(images, targets, self.shift, self.scale), targets

    def _predict(self, network: PretextNetwork, images: Images, moved: Images) -> Tensor:
        before, after = network(torch.cat([images, moved])).chunk(2)
        predicted: Tensor = network.parts["head"](torch.cat([before, after], 1))
        return predicted


def warp(
    images: Images, parameters: Float[Tensor, "batch parameters"], shift: float, scale: float
) -> Images:
    """Rotate images about their centre, scale, then move them; see `Transformation.transform`."""
    cos, sin, down, across, size = parameters.unbind(1)
    factor = scale**size
    height, width = images.shape[2:]
    back = torch.zeros(len(images), 2, 3).to(
        images
    )  # from points in the result to points in the image
    back[:, 0, 0], back[:, 0, 1] = cos, -sin * height / width
    back[:, 1, 0], back[:, 1, 1] = sin * width / height, cos
    back[:, :, :2] /= factor[:, None, None]
    translation = 2 * shift * torch.stack([across, down], 1)[:, :, None]
    back[:, :, 2:] = -back[:, :, :2] @ translation
    grid = F.affine_grid(back, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
