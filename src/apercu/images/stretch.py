"""`Stretch`: scale raw counts of astronomical images to [0, 1], in the same way for each image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor

from apercu.errors import ImagesError
from apercu.extras import require_extra
from apercu.types import Images, Picture

StretchCurve: TypeAlias = Literal["arcsinh", "log", "linear"]
"""Curve from counts to pixels."""
StretchMethod: TypeAlias = Literal["arcsinh", "log", "zscale"]
"""How a stretch is measured; `zscale` is linear between the limits of IRAF's algorithm."""

SIGMA_PER_MAD = 1.4826
"""Standard deviations of a normal distribution per median absolute deviation."""

LOW_QUANTILE, HIGH_QUANTILE = 0.01, 0.99
"""Quantiles, over the images, of the lowest and of the highest pixel of each image."""


class Stretch(BaseModel):
    """A curve from counts to pixels in [0, 1] for each band.

    Attributes:
        curve: `linear`, `log` of the distance from `low`, or `arcsinh`, which is linear near 0.
        low: counts that become 0, one per band.
        high: counts that become 1, one per band.
        noise: counts at which the curve bends, one per band.
        sky: whether the sky (the median of the band) is subtracted first. Without it the original
            counts can be computed from pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    curve: StretchCurve = "arcsinh"
    low: tuple[float, ...]
    high: tuple[float, ...]
    noise: tuple[float, ...]
    sky: bool = True

    @field_validator("high")
    @classmethod
    def _check_high(cls, high: tuple[float, ...], info: Any) -> tuple[float, ...]:
        """Raise ValueError if a band's `high` is not above its `low`."""
        low = info.data.get("low", ())
        if len(high) != len(low) or not all(a < b for a, b in zip(low, high, strict=True)):
            raise ValueError("expected as many as low, each above its low")
        return high

    @field_validator("noise")
    @classmethod
    def _check_noise(cls, noise: tuple[float, ...], info: Any) -> tuple[float, ...]:
        """Raise ValueError if the noise of a band is not above 0."""
        if len(noise) != len(info.data.get("low", ())) or not all(value > 0 for value in noise):
            raise ValueError("expected as many as low, each above 0")
        return noise

    def __call__(self, picture: Picture) -> Picture:
        """Scale counts to [0, 1]; NaN and infinite pixels become sky, or 0 counts.

        Args:
            picture: raw counts, `bands × height × width`, with as many bands as the stretch.

        Returns:
            A picture in [0, 1] of the same shape.
        """
        counts = subtract_sky(picture) if self.sky else _mask_infinite(picture).nan_to_num(0.0)
        low, high, noise = self._as_tensors(picture)
        scaled, start, end = (self._apply_curve(value, low, noise) for value in (counts, low, high))
        return ((scaled - start) / (end - start)).clamp(0, 1)

    def to_counts(self, images: Images) -> Images:
        """Convert pixels back to counts; gradients flow through.

        Counts are above the sky where it was subtracted. Counts that were outside of `low` and
        `high` come back as `low` and `high`.

        Args:
            images: pixels in [0, 1], `batch × bands × height × width`.

        Returns:
            Counts of the same shape.
        """
        low, high, noise = self._as_tensors(images)
        start, end = self._apply_curve(low, low, noise), self._apply_curve(high, low, noise)
        scaled = start + images * (end - start)
        if self.curve == "arcsinh":
            return torch.sinh(scaled) * noise
        if self.curve == "log":
            return torch.expm1(scaled) * noise + low
        return scaled

    def _as_tensors(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return low, high and noise, each `bands × 1 × 1`."""
        low, high, noise = (
            like.new_tensor(values).view(-1, 1, 1) for values in (self.low, self.high, self.noise)
        )
        return low, high, noise

    def _apply_curve(self, counts: Tensor, low: Tensor, noise: Tensor) -> Tensor:
        """Apply the curve to counts, before they are scaled to [0, 1]."""
        if self.curve == "arcsinh":
            return torch.asinh(counts / noise)
        if self.curve == "log":
            return torch.log1p((counts - low).clamp(min=0) / noise)
        return counts


def measure_stretch(pictures: Iterable[Picture], method: StretchMethod) -> Stretch:
    """Measure a stretch on a sample of pictures.

    Args:
        pictures: raw counts, `bands × height × width`, all with the same number of bands.
        method: `arcsinh` and `log` reach from the faintest to the brightest pixels; `zscale`
            (which needs the `astro` extra) shows the sky and what is slightly brighter.

    Returns:
        The stretch.

    Raises:
        ImagesError: there are no pictures, or a band is the same everywhere.
    """
    lows, highs, noises = [], [], []
    for picture in pictures:
        counts = subtract_sky(picture).flatten(1).numpy()
        noises.append([_estimate_noise(band) for band in counts])
        ends = [_find_ends(band, method) for band in counts]
        lows.append([low for low, _ in ends])
        highs.append([high for _, high in ends])
    if not noises:
        raise ImagesError("stretch: no images to measure it on")
    flat = np.flatnonzero(np.isnan(noises).all(axis=0))
    if len(flat):
        raise ImagesError(f"stretch: band {flat[0] + 1} is the same everywhere; leave it out")
    below, above = (0.5, 0.5) if method == "zscale" else (LOW_QUANTILE, HIGH_QUANTILE)
    low, high = np.nanquantile(lows, below, axis=0), np.nanquantile(highs, above, axis=0)
    noise = np.nanmedian(noises, axis=0)
    curve: StretchCurve = "linear" if method == "zscale" else method
    return Stretch(
        curve=curve, low=_round_values(low), high=_round_values(high), noise=_round_values(noise)
    )


def subtract_sky(picture: Picture) -> Float[Tensor, "channels height width"]:
    """Subtract the median of each band; NaN and infinite pixels become 0."""
    counts = _mask_infinite(picture)
    sky = counts.flatten(1).nanmedian(1).values.nan_to_num()
    return (counts - sky[:, None, None]).nan_to_num(0.0)


def _mask_infinite(picture: Picture) -> Picture:
    """Replace infinite pixels by NaN."""
    return torch.where(picture.isfinite(), picture, torch.nan)


def _estimate_noise(counts: NDArray[np.float32]) -> float:
    """Return one standard deviation of the sky; NaN if all counts are the same.

    If most pixels are exactly at the sky, as in photon counts, only the others are used.
    """
    distances = np.abs(counts)
    if not distances.any():
        return np.nan
    return SIGMA_PER_MAD * float(np.median(distances) or np.median(distances[distances > 0]))


def _find_ends(counts: NDArray[np.float32], method: StretchMethod) -> tuple[float, float]:
    """Return the counts of one band that become 0 and 1; NaN if all counts are the same."""
    lowest, highest = float(counts.min()), float(counts.max())
    if lowest == highest:
        return np.nan, np.nan
    if method == "zscale":
        low, high = _compute_zscale(counts)
        return (low, high) if low < high else (lowest, highest)
    return lowest, highest


def _compute_zscale(counts: NDArray[np.float32]) -> tuple[float, float]:
    """Compute the limits of IRAF's zscale algorithm."""
    require_extra("astro", "stretch")
    from astropy.visualization import ZScaleInterval

    low, high = ZScaleInterval().get_limits(counts)
    return float(low), float(high)


def _round_values(values: Any) -> tuple[float, ...]:
    """Round to six digits, so that a card is easy to read."""
    return tuple(float(f"{value:.6g}") for value in values)
