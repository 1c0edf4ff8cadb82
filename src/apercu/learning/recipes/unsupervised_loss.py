"""An additional loss without labels: the features must suffice to draw the image again."""

from __future__ import annotations

from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from apercu.classifiers.distillation_data import stack_images
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Recipe, Task, TrainingStep
from apercu.types import Images, Scores

WIDTH = 64
"""Channels of the decoder."""
PART = "unsupervised_loss"


@final
class UnsupervisedLoss(Recipe):
    """Draws each image again from its features, beside the labels (Brigato and Iocchi 2020).

    "A Close Look at Deep Learning with Small Data" claims that a network with an additional
    unsupervised loss is as good as networks of low complexity, or better, where labels are few.

    Ours: what the loss is, as the paper's text is not known in full. A small decoder draws the
    image, at a lower resolution, from the last feature map, and is dropped after the training.
    An error of 1 is that of the mean colour of the image. Images without labels are drawn as well
    where there are any, as many as those with labels.

    Attributes:
        weight: weight of the loss.
        size: side of the image that is drawn, in pixels.
    """

    name: ClassVar[str] = "unsupervised_loss"
    weight: float = Field(0.3, gt=0)
    size: int = Field(32, ge=4, le=256)

    def check_task(self, task: Task) -> None:
        if min(task.start.size) < self.size:
            raise ConfigError(
                f"recipe: unsupervised_loss: size: expected at most the images' "
                f"{min(task.start.size)} pixels, got {self.size}"
            )

    def change_network(self, network: LearningNetwork, task: Task) -> None:
        image = task.start.normalise(task.images[0][None].to(task.device))
        is_training = network.training
        with torch.no_grad():
            maps = network.to(task.device).eval().compute_outputs(image).maps
        network.train(is_training)
        if maps.ndim != 4:
            raise ConfigError(
                "recipe: unsupervised_loss: expected a network with feature maps, got one of tokens"
            )
        network.parts[PART] = ImageDecoder(maps.shape[1], task.start.channels, self.size)

    def compute_losses(self, step: TrainingStep) -> dict[str, Scores]:
        decoder = step.network.parts[PART]
        errors = measure_errors(decoder(step.outputs.maps), step.images)
        terms = {"drawing": self.weight * errors}
        pool = step.task.unlabelled
        if pool is not None:
            rows = torch.randint(len(pool), (len(step.images),), generator=step.generator)
            others = step.draw_views(stack_images(pool, rows).to(step.images.device))
            errors = measure_errors(decoder(step.compute_outputs(others).maps), others)
            terms["drawing_unlabelled"] = self.weight * errors
        return terms


@final
class ImageDecoder(nn.Module):
    """Draws an image from a feature map: convolutions, each at twice the resolution.

    Args:
        features: channels of the feature map.
        channels: channels of the image.
        size: side of the image in pixels.
    """

    def __init__(self, features: int, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.first = nn.Conv2d(features, WIDTH, 1)
        self.middle = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.last = nn.Conv2d(WIDTH, channels, 3, padding=1)

    def forward(self, maps: Float[Tensor, "batch features rows columns"]) -> Images:
        """Return images of `size` pixels, `batch × channels × size × size`."""
        half = F.interpolate(F.relu(self.first(maps)), size=max(2, self.size // 2), mode="bilinear")
        drawn = F.interpolate(F.relu(self.middle(half)), size=self.size, mode="bilinear")
        image: Images = self.last(drawn)
        return image


def measure_errors(drawn: Images, images: Float[Tensor, "batch channels rows columns"]) -> Scores:
    """Return the squared error of each drawn image, divided by that of the images' mean colour.

    Args:
        drawn: images that were drawn.
        images: the images themselves, at any resolution.

    Returns:
        One number per image; 1 where the drawing is as good as one flat colour.
    """
    small = F.adaptive_avg_pool2d(images, drawn.shape[2])
    spread = (small - small.mean((2, 3), keepdim=True)).square().mean((1, 2, 3))
    return (drawn - small).square().mean((1, 2, 3)) / spread.clamp(min=1e-3)
