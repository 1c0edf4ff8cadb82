"""What comes with an image where nobody has labelled it: catalogue entries, or its brightness."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.errors import ImagesError
from apercu.images import Item
from apercu.types import Picture

ZERO_POINT = 25.0
"""Magnitude of one count, where no catalogue says more; only differences are learnt."""

MISSING_FRACTION = 0.1
"""Share of an aperture's pixels that may be no numbers."""

CENTRE_FRACTION = 1 / 3
"""Share of the radius within which none may be."""


@dataclass(frozen=True, eq=False)
class CatalogueValues:
    """Rows of a table, one for each image of a source."""

    values: Float[Tensor, "images columns"] = field(repr=False)

    def __call__(self, place: int, item: Item) -> Float[Tensor, " columns"]:
        return self.values[place]


@dataclass(frozen=True)
class Brightness:
    """Magnitudes of an image's centre, one per band.

    Args:
        radius: of the aperture, pixels of the stored image.
        zero: magnitude of one count.
    """

    radius: float
    zero: float = ZERO_POINT

    def __call__(self, place: int, item: Item) -> Float[Tensor, " bands"]:
        return measure_magnitudes(item.picture, self.radius) + self.zero


def fit_brightness(sample: Iterable[Picture], radius: float, faintest: float) -> Brightness:
    """The measurement for images like these, whatever the unit of their counts.

    Args:
        sample: some of the images.
        radius: of the aperture, pixels.
        faintest: magnitude that a network can still say; where the median of the sample is not
            well within 0 and it, one count gets another magnitude than `ZERO`.

    Raises:
        ImagesError: no image has anything above its sky.
    """
    found = torch.cat([measure_magnitudes(picture, radius) for picture in sample])
    usual = float(found.nanmedian()) if len(found) else float("nan")
    if usual != usual:
        raise ImagesError(f"magnitudes: nothing lies above the sky within {radius:g} pixels")
    within = 0.2 * faintest <= usual + ZERO_POINT <= 0.9 * faintest
    return Brightness(radius, ZERO_POINT if within else 2 * faintest / 3 - usual)


def measure_magnitudes(picture: Picture, radius: float) -> Float[Tensor, " bands"]:
    """−2.5 log₁₀ of what lies above the sky within a circle around the centre.

    The sky is the median of the band. NaN where too much is missing, most of all in the middle,
    where saturation makes bright stars faint, or nothing is above the sky.

    Args:
        picture: one image; pixels that are no numbers count as sky.
        radius: pixels; a pixel counts whose centre lies inside.
    """
    height, width = picture.shape[1:]
    down = torch.arange(height) - (height - 1) / 2
    across = torch.arange(width) - (width - 1) / 2
    far = (down[:, None].square() + across.square()).sqrt()
    known = torch.where(picture.isfinite(), picture, torch.nan)
    sky = known.flatten(1).nanmedian(1).values
    counts = (known - sky[:, None, None])[:, far <= radius].double()
    flux = counts.nansum(1)
    useless = (counts.isnan().float().mean(1) > MISSING_FRACTION) | ~(flux > 0)
    useless |= known[:, far <= CENTRE_FRACTION * radius].isnan().any(1)
    return torch.where(useless, torch.nan, -2.5 * flux.log10()).float()
