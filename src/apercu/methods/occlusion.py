"""Occlusion: cover a part of the image and measure the loss (Zeiler & Fergus 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import ClassVar, final

import torch
from jaxtyping import Bool
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods.base import Method, Requirement
from apercu.removal import Mean
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class Occlusion(Method):
    """The drop of the target's logit under a patch, averaged over all patches on a pixel.

    The patch has the mean colour of the image.

    Attributes:
        window: the sides of the patch, as a fraction of the image's height and width.
        stride: the steps between patches, as a fraction of the image's height and width.
        batch: the number of occluded images that the classifier receives at once.

    Raises:
        ConfigError: window, stride or batch is out of range.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("queries",)
    window: float = 0.25
    stride: float = 0.125
    batch: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.window <= 1:
            raise ConfigError(
                "occlusion: expected 0 < stride <= window <= 1, "
                f"got window {self.window} and stride {self.stride}"
            )
        if self.batch < 1:
            raise ConfigError(f"occlusion: expected batch of at least 1, got {self.batch}")

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        patches = self._place_patches((images.shape[2], images.shape[3])).to(images.device)
        filling = Mean().make_replacement(images)
        count = len(images)
        logits = []
        with torch.no_grad():
            whole = classifier(images).gather(1, targets[:, None])[:, 0]
            pairs = torch.arange(len(patches) * count, device=images.device)
            for index in torch.split(pairs, self.batch):
                patch, image = index // count, index % count
                occluded = torch.where(patches[patch, None], filling[image], images[image])
                logits.append(classifier(occluded).gather(1, targets[image, None])[:, 0])
        drops = whole - torch.cat(logits).view(len(patches), count)
        weights = patches.to(drops)
        return torch.einsum("pb,phw->bhw", drops, weights) / weights.sum(dim=0)

    def _place_patches(self, size: tuple[int, int]) -> Bool[Tensor, "patches height width"]:
        """Return the pixels of each patch; the last patch of a row may leave the image."""
        spans = []
        for length in size:
            window, stride = (
                max(1, round(self.window * length)),
                max(1, round(self.stride * length)),
            )
            starts = torch.arange(ceil((length - window) / stride) + 1) * stride
            position = torch.arange(length)
            spans.append((position >= starts[:, None]) & (position < starts[:, None] + window))
        return torch.stack([down[:, None] & across for down, across in product(*spans)])
