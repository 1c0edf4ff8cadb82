"""Targets of images without labels: magnitudes from a catalogue, or from the image itself."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.errors import ImagesError
from apercu.images import ImageSource, Item
from apercu.types import Picture

ZERO_POINT = 25.0
"""Magnitude of one count without a catalogue; only differences of magnitudes are learnt."""

MISSING_FRACTION = 0.1
"""Fraction of the pixels of an aperture that may be missing."""

CENTRE_FRACTION = 1 / 3
"""Fraction of the radius within which no pixel may be missing."""


@dataclass(frozen=True, eq=False)
class CatalogueValues:
    """Values from a catalogue.

    Args:
        values: one row for each image of a source, `images × columns`.
    """

    values: Float[Tensor, "images columns"] = field(repr=False)

    def __call__(self, index: int, item: Item) -> Float[Tensor, " columns"]:
        return self.values[index]

    @property
    def digest_text(self) -> str:
        """The text for a digest; run folders hold such digests, so it never changes."""
        return "Listed()"


@dataclass(frozen=True)
class Brightness:
    """Measures the magnitudes of an image's centre, one per band.

    Args:
        radius: radius of the aperture, in pixels of the stored image.
        zero: magnitude of one count.
    """

    radius: float
    zero: float = ZERO_POINT

    def __call__(self, index: int, item: Item) -> Float[Tensor, " bands"]:
        return measure_magnitudes(item.picture, self.radius) + self.zero

    @property
    def digest_text(self) -> str:
        """The text for a digest; run folders hold such digests, so it never changes."""
        return f"Brightness(radius={self.radius!r}, zero={self.zero!r})"


@dataclass(frozen=True)
class ImageNumbers:
    """Numbers the images of a source from 0, for pretexts that remember each image."""

    def __call__(self, index: int, item: Item) -> Float[Tensor, " one"]:
        return torch.tensor([float(index)])

    @property
    def digest_text(self) -> str:
        """The text for a digest."""
        return "ImageNumbers()"


ImageTargets: TypeAlias = CatalogueValues | Brightness | ImageNumbers
"""From an index in the source and the image there to its magnitudes, or its number."""


@dataclass(frozen=True)
class PretrainImages:
    """Images, and the targets that come with them.

    Args:
        source: images.
        targets: returns the target of each image; None where the pretext needs images alone.
        columns: names of the values of a target, for reports.
    """

    source: ImageSource
    targets: ImageTargets | None = None
    columns: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A digest of the targets and of the images' names; empty without targets."""
        if self.targets is None:
            return ""
        text = f"({self.columns!r}, {self.source.names!r}, {self.targets.digest_text})"
        values = b""
        if isinstance(self.targets, CatalogueValues):
            values = self.targets.values.numpy().tobytes()
        return hashlib.sha256(text.encode() + values).hexdigest()[:16]

    @property
    def are_values(self) -> bool:
        """Whether the targets are values to predict."""
        return self.targets is not None and not isinstance(self.targets, ImageNumbers)

    def name_value(self, index: int) -> str:
        """Return the name of a value of the targets; its number from 1 where it has no name."""
        return self.columns[index] if index < len(self.columns) else str(index + 1)


def fit_brightness(sample: Iterable[Picture], radius: float, faintest: float) -> Brightness:
    """Fit the measurement of magnitudes to images, whatever the unit of their counts is.

    Args:
        sample: some of the images, `channels × height × width` each.
        radius: radius of the aperture, in pixels.
        faintest: magnitude that a network can still predict. Where the median of the sample is not
            well between 0 and this magnitude, one count gets another magnitude than `ZERO_POINT`.

    Returns:
        The measurement.

    Raises:
        ImagesError: no image has anything above its sky.
    """
    magnitudes = torch.cat([measure_magnitudes(picture, radius) for picture in sample])
    median = float(magnitudes.nanmedian()) if len(magnitudes) else math.nan
    if math.isnan(median):
        raise ImagesError(
            "magnitudes: expected an object in the centre, but no image is brighter than its "
            f"sky within {radius:g} pixels; give --catalogue and --target"
        )
    is_typical = 0.2 * faintest <= median + ZERO_POINT <= 0.9 * faintest
    return Brightness(radius, ZERO_POINT if is_typical else 2 * faintest / 3 - median)


def measure_magnitudes(picture: Picture, radius: float) -> Float[Tensor, " bands"]:
    """Measure −2.5 log₁₀ of the flux above the sky, within a circle around the centre.

    The sky is the median of the band.

    Args:
        picture: one image, `channels × height × width`; missing pixels count as sky.
        radius: radius of the circle, in pixels; a pixel counts if its centre lies inside.

    Returns:
        One magnitude per band. NaN where too many pixels are missing, or any near the centre, where
        saturation makes bright stars faint, and where nothing is above the sky.
    """
    height, width = picture.shape[1:]
    down = torch.arange(height) - (height - 1) / 2
    across = torch.arange(width) - (width - 1) / 2
    distance = (down[:, None].square() + across.square()).sqrt()
    finite = torch.where(picture.isfinite(), picture, torch.nan)
    sky = finite.flatten(1).nanmedian(1).values
    counts = (finite - sky[:, None, None])[:, distance <= radius].double()
    flux = counts.nansum(1)
    useless = (counts.isnan().float().mean(1) > MISSING_FRACTION) | ~(flux > 0)
    useless |= finite[:, distance <= CENTRE_FRACTION * radius].isnan().any(1)
    return torch.where(useless, torch.nan, -2.5 * flux.log10()).float()
