"""Raw counts → [0, 1], the same way for every image: what is far apart comes near, NaN is sky."""

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
from apercu.types import Images, Picture

StretchCurve: TypeAlias = Literal["arcsinh", "log", "linear"]
StretchMethod: TypeAlias = Literal["arcsinh", "log", "zscale"]
"""How a stretch is measured; `zscale` is a linear one between the limits of IRAF's algorithm."""

SIGMA_PER_MAD = 1.4826
"""Standard deviations of a normal distribution per median absolute deviation."""

LOW_QUANTILE, HIGH_QUANTILE = 0.01, 0.99
"""Quantiles of the images' lowest and highest pixels that still lie within the stretch."""


class Stretch(BaseModel):
    """A curve from `low` to `high`, for each band after its sky (the median) is taken away.

    Attributes:
        curve: `linear`, `log` of the distance from `low`, or `arcsinh`, linear near 0.
        low: counts that become 0, per band.
        high: counts that become 1, per band.
        noise: counts where the curve bends, per band.
        sky: whether the sky is taken away; without, counts can be told from pixels again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    curve: StretchCurve = "arcsinh"
    low: tuple[float, ...]
    high: tuple[float, ...]
    noise: tuple[float, ...]
    sky: bool = True

    @field_validator("high")
    @classmethod
    def _check_high(cls, high: tuple[float, ...], info: Any) -> tuple[float, ...]:
        low = info.data.get("low", ())
        if len(high) != len(low) or not all(a < b for a, b in zip(low, high, strict=True)):
            raise ValueError("expected as many as low, each above its low")
        return high

    @field_validator("noise")
    @classmethod
    def _check_noise(cls, noise: tuple[float, ...], info: Any) -> tuple[float, ...]:
        if len(noise) != len(info.data.get("low", ())) or not all(one > 0 for one in noise):
            raise ValueError("expected as many as low, each above 0")
        return noise

    def __call__(self, picture: Picture) -> Picture:
        """Brings counts to [0, 1]; pixels that are no numbers become sky, or 0 counts.

        Args:
            picture: as many bands as the stretch has.
        """
        counts = subtract_sky(picture) if self.sky else _mask_infinite(picture).nan_to_num(0.0)
        low, high, noise = self._as_tensors(picture)
        bent, start, end = (self._apply_curve(value, low, noise) for value in (counts, low, high))
        return ((bent - start) / (end - start)).clamp(0, 1)

    def to_counts(self, images: Images) -> Images:
        """From pixels back to counts, above the sky where it was taken away; slopes pass.

        What was outside of `low` and `high` stays at these ends.
        """
        low, high, noise = self._as_tensors(images)
        start, end = self._apply_curve(low, low, noise), self._apply_curve(high, low, noise)
        bent = start + images * (end - start)
        if self.curve == "arcsinh":
            return torch.sinh(bent) * noise
        if self.curve == "log":
            return torch.expm1(bent) * noise + low
        return bent

    def _as_tensors(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high, noise = (
            like.new_tensor(values).view(-1, 1, 1) for values in (self.low, self.high, self.noise)
        )
        return low, high, noise

    def _apply_curve(self, counts: Tensor, low: Tensor, noise: Tensor) -> Tensor:
        if self.curve == "arcsinh":
            return torch.asinh(counts / noise)
        if self.curve == "log":
            return torch.log1p((counts - low).clamp(min=0) / noise)
        return counts


def measure_stretch(pictures: Iterable[Picture], method: StretchMethod) -> Stretch:
    """The stretch that a sample of pictures asks for.

    Args:
        pictures: raw counts, all with the same number of bands.
        kind: `arcsinh` and `log` reach from the faintest to the brightest pixels, `zscale`
            (which needs the `astro` extra) shows the sky and what is little brighter.

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
    """Counts above each band's median; 0 where they are no numbers."""
    known = _mask_infinite(picture)
    sky = known.flatten(1).nanmedian(1).values.nan_to_num()
    return (known - sky[:, None, None]).nan_to_num(0.0)


def _mask_infinite(picture: Picture) -> Picture:
    return torch.where(picture.isfinite(), picture, torch.nan)


def _estimate_noise(counts: NDArray[np.float32]) -> float:
    """One standard deviation of the sky; NaN where all counts are the same.

    Where most pixels lie at the sky itself, as where photons are counted, the others tell.
    """
    away = np.abs(counts)
    if not away.any():
        return np.nan
    return SIGMA_PER_MAD * float(np.median(away) or np.median(away[away > 0]))


def _find_ends(counts: NDArray[np.float32], kind: StretchMethod) -> tuple[float, float]:
    """Where one band begins and ends; NaN where all counts are the same."""
    least, most = float(counts.min()), float(counts.max())
    if least == most:
        return np.nan, np.nan
    if kind == "zscale":
        low, high = _compute_zscale(counts)
        return (low, high) if low < high else (least, most)
    return least, most


def _compute_zscale(counts: NDArray[np.float32]) -> tuple[float, float]:
    try:
        from astropy.visualization import ZScaleInterval
    except ImportError as error:
        raise ImagesError("stretch: zscale needs astropy; pip install 'apercu[astro]'") from error
    low, high = ZScaleInterval().get_limits(counts)
    return float(low), float(high)


def _round_values(values: Any) -> tuple[float, ...]:
    """To six digits, so that a card can be read."""
    return tuple(float(f"{value:.6g}") for value in values)
