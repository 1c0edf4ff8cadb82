"""Random views of training images."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Generator, Tensor

from apercu.types import Images

Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class RandomViews:
    """Draws random crops, stretched to the full size, rotated and mirrored.

    Args:
        smallest: smallest area of a crop, as a fraction of the image.
        stretch: largest change of the aspect ratio, as a factor.
        whole: probability that an image is not cropped.
        mirror: probability of a horizontal flip.
        turn: largest rotation either way, in degrees.
    """

    smallest: Annotated[float, Field(gt=0, le=1)] = 0.5
    stretch: Annotated[float, Field(ge=1)] = 1.3
    whole: Fraction = 0.5
    mirror: Fraction = 0.5
    turn: Annotated[float, Field(ge=0, le=180)] = 0.0

    def __call__(
        self, images: Images, generator: Generator, size: tuple[int, int] | None = None
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Return one view per image.

        Args:
            images: any images.
            generator: source of the draws.
            size: height and width of the views in pixels; those of the images when None.
        """
        count = len(images)
        area = self.smallest + (1 - self.smallest) * torch.rand(count, generator=generator)
        aspect = self.stretch ** (2 * torch.rand(count, generator=generator) - 1)
        sides = torch.stack([area * aspect, area / aspect], 1).sqrt().clamp(max=1)
        whole = torch.rand(count, generator=generator) < self.whole
        sides = torch.where(whole[:, None], torch.ones_like(sides), sides)
        centres = sides / 2 + (1 - sides) * torch.rand(count, 2, generator=generator)
        rotations = None
        if self.turn:
            rotations = torch.deg2rad(self.turn * (2 * torch.rand(count, generator=generator) - 1))
        boxes = torch.cat([centres - sides / 2, centres + sides / 2], 1)
        views = crop(images, boxes, size, rotations)
        mirrored = torch.rand(count, generator=generator) < self.mirror
        return torch.where(mirrored.to(images.device)[:, None, None, None], views.flip(3), views)


def crop(
    images: Images,
    boxes: Tensor,
    size: tuple[int, int] | None = None,
    rotations: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch channels rows columns"]:
    """Cut each image's box out and stretch it bilinearly.

    Args:
        images: any images.
        boxes: `batch × 4`, xmin, ymin, xmax, ymax as fractions of the image's sides; what lies
            outside repeats the border.
        size: height and width of the result in pixels; those of the images when None.
        rotations: radians by which each box is rotated about its centre; none when None.

    Returns:
        The boxes as images, `batch × channels × rows × columns`.
    """
    low, high = boxes[:, :2].to(images), boxes[:, 2:].to(images)
    transforms = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    transforms[:, :, 2] = high + low - 1
    if rotations is None:
        transforms[:, [0, 1], [0, 1]] = high - low
    else:
        height, width = images.shape[2:]
        cos, sin = rotations.to(images).cos(), rotations.to(images).sin()
        rotation = torch.stack([cos, -sin * height / width, sin * width / height, cos], 1)
        transforms[:, :, :2] = rotation.view(-1, 2, 2) * (high - low)[:, None]
    shape = [*images.shape[:2], *(size or images.shape[2:])]
    grid = F.affine_grid(transforms, shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class RandomExposure:
    """Draws images with another gamma, contrast, brightness, sharpness and noise each.

    A classifier that is trained on them finds little evidence in how an image was taken.

    Args:
        gamma: largest factor, at least 1, by which the exponent of the intensities grows or
            shrinks; 1 keeps it.
        contrast: largest change of the contrast either way, as a fraction.
        brightness: largest change of the intensity either way.
        blur: largest weight, up to 1, of the image at half its size.
        noise: largest standard deviation of Gaussian noise; half of the images get none.
    """

    gamma: Annotated[float, Field(ge=1)] = 1.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    blur: Fraction = 0.0
    noise: Fraction = 0.0

    def __bool__(self) -> bool:
        """Whether images change at all."""
        return self != RandomExposure()

    def __call__(self, images: Images, generator: Generator) -> Images:
        """Return one view of each image, in the same shape.

        Args:
            images: images whose intensities lie in [0, 1].
            generator: source of the draws.
        """
        if not self:
            return images
        draws = 2 * torch.rand(5, len(images), 1, 1, 1, generator=generator) - 1
        gamma, contrast, brightness, blur, noise = draws.to(images.device)
        views = images.clamp(0, 1)
        if self.gamma > 1:  # the slope at 0 is infinite for an exponent below 1
            views = views.clamp(min=1e-4) ** (self.gamma**gamma)
        views = (views - 0.5) * (1 + self.contrast * contrast) + 0.5 + self.brightness * brightness
        if self.blur:
            views = views.lerp(halve_detail(views), self.blur * (0.5 + blur / 2))
        if self.noise:
            grain = torch.randn(images.shape, generator=generator).to(images)
            views = views + self.noise * noise.clamp(min=0) * grain
        return views.clamp(0, 1)


def halve_detail(images: Images) -> Images:
    """Return images without what is finer than two pixels, in the same shape."""
    size = (max(1, images.shape[2] // 2), max(1, images.shape[3] // 2))
    small = F.interpolate(images, size, mode="bilinear", antialias=True)
    return F.interpolate(small, images.shape[2:], mode="bilinear")
