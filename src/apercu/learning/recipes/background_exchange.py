"""Objects on generated backgrounds that make the classifier's task hard."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Recipe, Task, TrainingStep
from apercu.networks.blocks import build_conv_block
from apercu.pretraining.pretexts.adios import GradientReversal
from apercu.types import Images, Maps, Scores

CODES = 16
"""Random numbers at each position of the coarsest map of a background."""
COLOUR_SPREAD = 1.5
"""Standard deviation of the logits of a background's colour before the training."""
DOUBLINGS = 3
BORDER = 0.1
"""Width of an image's border, as a fraction of its sides."""
SOFTNESS = 0.5


@final
class BackgroundExchange(Recipe):
    """Puts objects on backgrounds that are made against the classifier (Cruz et al. 2020).

    "Background Invariance by Adversarial Learning" claims 20 points more on photographs from
    outside for a detector of insulators that was trained on photographs of a laboratory, when a
    generator learns to make backgrounds on which the classifier fails. The classifier learns on
    the original images and on these.

    Ours: gradients that reach the generator are reversed, so that one step trains both; the object
    is not given by a mask, but found: pixels that differ from the image's border, or those in the
    middle.

    Attributes:
        object: where the object is: `border`, what differs from the pixels at the border; `centre`,
            an ellipse in the middle.
        size: diameter of the ellipse, as a fraction of the sides.
        contrast: difference from the border above which a pixel is of the object, in standard
            deviations of the border's pixels.
        weight: weight of the loss of the exchanged images.
        adversary: factor of the generator's gradients, relative to the classifier's.
    """

    name: ClassVar[str] = "background_exchange"
    object: Literal["border", "centre"] = "border"
    size: float = Field(0.6, gt=0, le=1.4)
    contrast: float = Field(3.0, gt=0)
    weight: float = Field(1.0, gt=0)
    adversary: float = Field(1.0, ge=0)

    def change_network(self, network: LearningNetwork, task: Task) -> None:
        network.parts[self.name] = BackgroundGenerator(task.start.channels)

    def compute_losses(self, step: TrainingStep) -> dict[str, Scores]:
        exchanged = self.exchange(step.network, step.images, step.generator)
        logits = step.compute_outputs(exchanged).logits
        return {"exchanged": self.weight * step.task.compute_loss(logits, step.targets)}

    def exchange(self, network: LearningNetwork, images: Images, generator: Generator) -> Images:
        """Put the objects of images on generated backgrounds."""
        size = (images.shape[2], images.shape[3])
        made = network.parts[self.name](len(images), size, generator)
        made = GradientReversal.apply(made, self.adversary)
        return torch.lerp(made, images, self.find_objects(images).unsqueeze(1))

    def find_objects(self, images: Images) -> Maps:
        """Return how much each pixel is of the object, from 0 to 1, `batch × height × width`."""
        if self.object == "centre":
            down, across = (torch.linspace(-1, 1, side) for side in images.shape[2:])
            radius = (down[:, None].square() + across.square()).sqrt().to(images)
            inside = torch.sigmoid((self.size - radius) / 0.05)
            return inside.expand(len(images), -1, -1)
        border = torch.ones(images.shape[2:], dtype=torch.bool)
        rows, columns = (max(1, round(BORDER * side)) for side in images.shape[2:])
        border[rows:-rows, columns:-columns] = False
        pixels = images[:, :, border]
        usual = pixels.median(2).values[:, :, None, None]
        spread = pixels.std(2, unbiased=False).clamp(min=0.01)[:, :, None, None]
        differences = ((images - usual).abs() / spread).amax(1)
        smooth = F.avg_pool2d(F.pad(differences[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[
            :, 0
        ]
        return torch.sigmoid((smooth - self.contrast) / SOFTNESS)


class BackgroundGenerator(nn.Module):
    """Makes backgrounds from random numbers: a colour, and a texture on it.

    Args:
        channels: number of channels of the images.
        width: number of channels of the maps before.
    """

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.colour = nn.Linear(CODES, channels)
        nn.init.normal_(self.colour.weight, std=COLOUR_SPREAD / CODES**0.5)  # dark and bright ones
        self.start = nn.Conv2d(CODES, width, 1)
        self.steps = nn.ModuleList(build_conv_block(width, width) for _ in range(DOUBLINGS))
        self.head = nn.Conv2d(width, channels, 1)

    def forward(
        self, count: int, size: tuple[int, int], generator: Generator
    ) -> Float[Tensor, "count channels height width"]:
        """Make so many backgrounds of this size, with values from 0 to 1."""
        coarse = [max(1, -(-side // 2**DOUBLINGS)) for side in size]
        codes = torch.randn(count, CODES, *coarse, generator=generator).to(self.start.weight)
        colours = torch.randn(count, CODES, generator=generator).to(self.start.weight)
        maps = self.start(codes).relu()
        for step in self.steps:
            maps = step(F.interpolate(maps, scale_factor=2, mode="nearest"))
        made = F.interpolate(self.head(maps), size, mode="bilinear", align_corners=False)
        return (made + self.colour(colours)[:, :, None, None]).sigmoid()
