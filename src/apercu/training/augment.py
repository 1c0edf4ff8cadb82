"""Random views of training images, drawn from a generator of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from apercu.types import Images


@dataclass(frozen=True)
class Views:
    """Random crops, stretched to the full size, and mirror images.

    Args:
        smallest: smallest area of a crop, as a share of the image.
        stretch: largest change of the aspect ratio, as a factor.
        whole: probability that an image is not cropped.
        mirror: probability of a horizontal flip.
    """

    smallest: float = 0.5
    stretch: float = 1.3
    whole: float = 0.5
    mirror: float = 0.5

    def __call__(
        self, images: Images, generator: Generator, size: tuple[int, int] | None = None
    ) -> Float[Tensor, "batch channels rows columns"]:
        """One view per image, at `size` (height, width), the images' own when None."""
        count = len(images)
        area = self.smallest + (1 - self.smallest) * torch.rand(count, generator=generator)
        aspect = self.stretch ** (2 * torch.rand(count, generator=generator) - 1)
        sides = torch.stack([area * aspect, area / aspect], 1).sqrt().clamp(max=1)
        whole = torch.rand(count, generator=generator) < self.whole
        sides = torch.where(whole[:, None], torch.ones_like(sides), sides)
        centres = sides / 2 + (1 - sides) * torch.rand(count, 2, generator=generator)
        views = crop(images, torch.cat([centres - sides / 2, centres + sides / 2], 1), size)
        mirrored = torch.rand(count, generator=generator) < self.mirror
        return torch.where(mirrored.to(images.device)[:, None, None, None], views.flip(3), views)


def crop(
    images: Images, boxes: Tensor, size: tuple[int, int] | None = None
) -> Float[Tensor, "batch channels rows columns"]:
    """Each image's box, stretched bilinearly.

    Args:
        images: any images.
        boxes: `batch × 4`, xmin, ymin, xmax, ymax as shares of the image's sides; what lies
            outside repeats the border.
        size: height and width of the answer, those of the images when None.
    """
    low, high = boxes[:, :2].to(images), boxes[:, 2:].to(images)
    transforms = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    transforms[:, [0, 1], [0, 1]] = high - low
    transforms[:, :, 2] = high + low - 1
    shape = [*images.shape[:2], *(size or images.shape[2:])]
    grid = F.affine_grid(transforms, shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
