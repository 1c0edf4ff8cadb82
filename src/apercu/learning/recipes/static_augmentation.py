"""A fixed, larger set of images in the place of random views."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field

from apercu.classifiers.distillation_data import stack_images
from apercu.learning.recipes.base import AddedImages, Recipe, Task
from apercu.pretraining.pretexts.base import turn_randomly
from apercu.training.augment import RandomViews

PART = 256
"""Images of which views are made together."""


@final
class StaticAugmentation(Recipe):
    """Adds a few views of each labelled image once, and draws none later (Brigato and Iocchi 2020).

    "A Close Look at Deep Learning with Small Data" finds that, where a class has few images, views
    that are drawn anew at every step do not help ("dynamic" augmentation), and names a set that is
    enlarged before the training ("static" augmentation) as promising. It also finds that networks
    of low complexity with dropout are then as good as deep ones or better.

    Ours: the kind of the views and their number, as the paper's text is not known in full. The
    random views of the training's own settings are not used with this recipe.

    Attributes:
        copies: views that are added for each labelled image.
        smallest: smallest area of a view, as a fraction of the image.
        mirror: probability of a horizontal flip.
        turned: whether views are also turned by right angles.
    """

    name: ClassVar[str] = "static_augmentation"
    keeps_images: ClassVar[bool] = True
    copies: int = Field(4, ge=1, le=64)
    smallest: float = Field(0.7, gt=0, le=1)
    mirror: float = Field(0.5, ge=0, le=1)
    turned: bool = False

    def make_images(self, task: Task) -> AddedImages:
        generator = task.make_generator("static augmentation")
        draw_views = RandomViews(smallest=self.smallest, stretch=1.2, whole=0.0, mirror=self.mirror)
        views = []
        for _ in range(self.copies):
            for rows in torch.split(torch.arange(len(task.images)), PART):
                images = stack_images(task.images, rows)
                if self.turned:
                    images = turn_randomly(images, generator)
                views.append(draw_views(images, generator))
        return AddedImages(torch.cat(views), task.targets.repeat(self.copies, 1))
