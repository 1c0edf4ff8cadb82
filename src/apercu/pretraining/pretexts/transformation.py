"""How an image was turned, moved and enlarged."""

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
    """Regression of a rotation, translation and scale from the features of both images.

    The parameters are continuous (Guo et al. 2020). Images are mirrored at their borders, so that
    no black corner tells how they were turned.

    Attributes:
        turn: largest rotation either way, in degrees.
        shift: largest translation, as a share of the side.
        scale: largest enlargement, and its inverse the largest reduction.
    """

    form: Literal["transformation"] = "transformation"
    turn: float = Field(180.0, ge=0, le=180)
    shift: float = Field(0.15, ge=0, lt=0.5)
    scale: float = Field(1.4, ge=1)

    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        layers = (nn.Linear(2 * sample.features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(NAMES)))
        return {"head": nn.Sequential(*layers)}

    def compute_losses(self, network: PretextNetwork, lesson: PretextBatch) -> dict[str, Scores]:
        moved, wanted = self.transform(lesson.images, lesson.generator)
        off = (self._predict(network, lesson.images, moved) - wanted).square()
        return {"turn": off[:, :2].sum(1), "shift": off[:, 2:4].sum(1), "size": off[:, 4]}

    def measure_errors(self, network: PretextNetwork, lesson: PretextBatch) -> dict[str, Scores]:
        moved, wanted = self.transform(lesson.images, lesson.generator)
        said = self._predict(network, lesson.images, moved)
        turned = torch.atan2(said[:, 1], said[:, 0]) - torch.atan2(wanted[:, 1], wanted[:, 0])
        turned = torch.rad2deg((turned + math.pi).remainder(2 * math.pi) - math.pi).abs()
        shifted = self.shift * (said[:, 2:4] - wanted[:, 2:4]).norm(dim=1)
        sized = math.log(self.scale) * (said[:, 4] - wanted[:, 4]).abs()
        return {"degrees": turned, "share_of_side": shifted, "log_scale": sized}

    def tiles(self, network: PretextNetwork, lesson: PretextBatch) -> list[render.Tile]:
        moved, wanted = self.transform(lesson.images, lesson.generator)
        said = self._predict(network, lesson.images, moved)
        degrees = [
            float(torch.rad2deg(torch.atan2(row[0, 1], row[0, 0]))) for row in (said, wanted)
        ]
        return [
            render.Tile(render.to_image(lesson.images[0].cpu()), "image"),
            render.Tile(render.to_image(moved[0].cpu()), f"{degrees[0]:.0f}° ({degrees[1]:.0f}°)"),
        ]

    def transform(
        self, images: Images, generator: Generator
    ) -> tuple[Images, Float[Tensor, "batch parameters"]]:
        """Transformed images, and the parameters in the order of `NAMES`.

        Cosine and sine of the angle, counter-clockwise; translation of the content down and
        across, in units of the largest; logarithm of its enlargement, likewise.
        """
        count = len(images)
        draws = 2 * torch.rand(count, 4, generator=generator) - 1
        angle = torch.deg2rad(self.turn * draws[:, 0])
        wanted = torch.cat([angle.cos()[:, None], angle.sin()[:, None], draws[:, 1:]], 1)
        wanted = wanted.to(images)
        return warp(images, wanted, self.shift, self.scale), wanted

    def _predict(self, network: PretextNetwork, images: Images, moved: Images) -> Tensor:
        before, after = network(torch.cat([images, moved])).chunk(2)
        said: Tensor = network.parts["head"](torch.cat([before, after], 1))
        return said


def warp(
    images: Images, parameters: Float[Tensor, "batch parameters"], shift: float, scale: float
) -> Images:
    """Images turned about their centre and enlarged, then moved; see `Transformation.moved`."""
    cos, sin, down, across, size = parameters.unbind(1)
    grown = scale**size
    height, width = images.shape[2:]
    back = torch.zeros(len(images), 2, 3).to(images)  # from places in the answer to the image's
    back[:, 0, 0], back[:, 0, 1] = cos, -sin * height / width
    back[:, 1, 0], back[:, 1, 1] = sin * width / height, cos
    back[:, :, :2] /= grown[:, None, None]
    moved = 2 * shift * torch.stack([across, down], 1)[:, :, None]
    back[:, :, 2:] = -back[:, :, :2] @ moved
    grid = F.affine_grid(back, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
