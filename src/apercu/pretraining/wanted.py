"""What comes with an image where nobody has labelled it: catalogue entries, or its brightness."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.images import Item
from apercu.types import Picture

ZERO = 25.0
"""Magnitude of one count, where no catalogue says more; only differences are learnt."""

MISSING = 0.1
"""Share of an aperture's pixels that may be no numbers."""


@dataclass(frozen=True, eq=False)
class Listed:
    """Rows of a table, one for each image of a source."""

    values: Float[Tensor, "images columns"] = field(repr=False)

    def __call__(self, place: int, item: Item) -> Float[Tensor, " columns"]:
        return self.values[place]


@dataclass(frozen=True)
class Brightness:
    """Magnitudes of an image's centre, one per band.

    Args:
        radius: of the aperture, pixels of the stored image.
    """

    radius: float

    def __call__(self, place: int, item: Item) -> Float[Tensor, " bands"]:
        return magnitudes(item.picture, self.radius)


def magnitudes(picture: Picture, radius: float) -> Float[Tensor, " bands"]:
    """−2.5 log₁₀ of what lies above the sky within a circle around the centre, plus `ZERO`.

    The sky is the median of the band. NaN where too much is missing, or nothing is above the sky.

    Args:
        picture: one image; pixels that are no numbers count as sky.
        radius: pixels; a pixel counts whose centre lies inside.
    """
    height, width = picture.shape[1:]
    down = torch.arange(height) - (height - 1) / 2
    across = torch.arange(width) - (width - 1) / 2
    inside = down[:, None].square() + across.square() <= radius**2
    known = torch.where(picture.isfinite(), picture, torch.nan)
    sky = known.flatten(1).nanmedian(1).values
    counts = (known - sky[:, None, None])[:, inside]
    flux = counts.nansum(1)
    useless = (counts.isnan().float().mean(1) > MISSING) | ~(flux > 0)
    return torch.where(useless, torch.nan, ZERO - 2.5 * flux.clamp(min=1e-12).log10())
