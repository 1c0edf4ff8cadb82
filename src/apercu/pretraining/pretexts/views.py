"""Two random views of each image, for losses that compare them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator

from apercu.pretraining.pretexts.base import turn_randomly
from apercu.training.augment import RandomViews
from apercu.types import Images


class ViewPair(BaseModel):
    """How two views are drawn: crop, position, brightness, blur, noise.

    Attributes:
        crops: random crops, stretched to the full size.
        turned: whether views are turned by right angles as well, as in the sky.
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
        return self._draw_view(images, generator), self._draw_view(images, generator)

    def _draw_view(self, images: Images, generator: Generator) -> Images:
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
