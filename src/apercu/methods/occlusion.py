"""Occlusion: slide a plain patch over the image and see what is missed (Zeiler & Fergus 2014)."""

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
    """The fall of the target's logit under a patch, averaged over all patches on a pixel.

    The patch has the image's mean colour. `window` and `stride` are shares of the image's height
    and width; `batch` occluded images are answered at a time.

    Raises:
        ConfigError: window or stride is out of range.
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
        plain = Mean().make_replacement(images)
        count = len(images)
        left = []
        with torch.no_grad():
            whole = classifier(images).gather(1, targets[:, None])[:, 0]
            pairs = torch.arange(len(patches) * count, device=images.device)
            for index in torch.split(pairs, self.batch):
                place, image = index // count, index % count
                hidden = torch.where(patches[place, None], plain[image], images[image])
                left.append(classifier(hidden).gather(1, targets[image, None])[:, 0])
        falls = whole - torch.cat(left).view(len(patches), count)
        weights = patches.to(falls)
        return torch.einsum("pb,phw->bhw", falls, weights) / weights.sum(dim=0)

    def _place_patches(self, size: tuple[int, int]) -> Bool[Tensor, "patches height width"]:
        """Where each patch lies; the last of a line may reach over the image's edge."""
        lines = []
        for length in size:
            window, stride = (
                max(1, round(self.window * length)),
                max(1, round(self.stride * length)),
            )
            starts = torch.arange(ceil((length - window) / stride) + 1) * stride
            place = torch.arange(length)
            lines.append((place >= starts[:, None]) & (place < starts[:, None] + window))
        return torch.stack([down[:, None] & across for down, across in product(*lines)])
