"""Two random views of each image, for losses that compare them."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor, nn

from apercu import render
from apercu.extras import require_extra
from apercu.pretraining.pretexts.base import (
    Pretext,
    PretextBatch,
    PretextNetwork,
    PretextSample,
    turn_randomly,
)
from apercu.training.augment import RandomViews
from apercu.types import Images, Scores


class ViewPair(BaseModel):
    """Draws two random views of an image: crop, orientation, brightness, blur, noise.

    Attributes:
        crops: random crops, stretched to the full size.
        turned: whether views are also turned by right angles, as in images of the sky.
        brightness: largest change of brightness and of contrast, either way.
        blur: probability of a blur of one pixel.
        noise: standard deviation of noise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    crops: RandomViews = RandomViews(smallest=0.4, whole=0.1)
    turned: bool = False
    brightness: float = Field(0.2, ge=0, lt=1)
    blur: float = Field(0.3, ge=0, le=1)
    noise: float = Field(0.02, ge=0)

    def __call__(self, images: Images, generator: Generator) -> tuple[Images, Images]:
        return self.draw_view(images, generator), self.draw_view(images, generator)

    def draw_view(self, images: Images, generator: Generator) -> Images:
        """Draw one random view of each image."""
        views = self.crops(images, generator)
        if self.turned:
            views = turn_randomly(views, generator)
        draws = torch.rand(3, len(views), 1, 1, 1, generator=generator).to(views)
        contrast, shift = 1 + self.brightness * (2 * draws[:2] - 1)
        views = (views - 0.5) * contrast + 0.5 * shift
        smooth = F.avg_pool2d(F.pad(views, (1, 1, 1, 1), mode="replicate"), 3, 1)
        views = torch.where(draws[2] < self.blur, smooth, views)
        noise = torch.randn(views.shape, generator=generator).to(views)
        return (views + self.noise * noise).clamp(0, 1)


@final
class Contrastive(Pretext):
    """Embeds two random views by a loss of lightly's (the `ssl` extra).

    Attributes:
        loss: `nt_xent` (SimCLR), `vicreg` or `barlow_twins`.
        views: random draw of the two views of an image.
        width: width of the projection that the loss receives; only the features before it are kept.
    """

    form: Literal["contrastive"] = "contrastive"
    loss: Literal["nt_xent", "vicreg", "barlow_twins"] = "nt_xent"
    views: ViewPair = ViewPair()
    width: int = Field(128, ge=2, le=16384)

    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        import_losses()  # fails before the first step where lightly is missing
        return {"projection": build_projection(sample.features, self.width)}

    def compute_losses(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        loss: Tensor = import_losses()[self.loss]()(*self._project_views(network, batch))
        return {self.loss: loss.expand(len(batch.images))}

    def measure_errors(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        """Measure how often another image of the batch is nearer than the image's other view."""
        first, second = (
            nn.functional.normalize(z, dim=1) for z in self._project_views(network, batch)
        )
        nearest = (first @ second.T).argmax(1)
        wrong = nearest != torch.arange(len(first), device=nearest.device)
        return {"mistaken": wrong.float()}

    def sample_tiles(self, network: PretextNetwork, batch: PretextBatch) -> list[render.Tile]:
        pair = self.views(batch.images[:1], batch.generator)
        return [render.Tile(render.to_image(view[0].cpu()), "view") for view in pair]

    def _project_views(self, network: PretextNetwork, batch: PretextBatch) -> tuple[Tensor, Tensor]:
        """Project two views of each image."""
        views = torch.cat(self.views(batch.images, batch.generator))
        first, second = network.parts["projection"](network(views)).chunk(2)
        return first, second


def build_projection(features: int, width: int) -> nn.Sequential:
    """Build the small network between features and loss."""
    return nn.Sequential(
        nn.Linear(features, features),
        nn.BatchNorm1d(features),
        nn.ReLU(),
        nn.Linear(features, width),
    )


def import_losses() -> dict[str, Any]:
    """Import lightly's losses by name; raises MissingExtraError without lightly."""
    require_extra("ssl", "pretrain")
    from lightly.loss import BarlowTwinsLoss, NTXentLoss, VICRegLoss

    return {"nt_xent": NTXentLoss, "vicreg": VICRegLoss, "barlow_twins": BarlowTwinsLoss}
