"""Raw counts to pixels: a closed form for each curve, the sky, what is missing."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from apercu.classifiers import InputSpec
from apercu.classifiers.preprocessing import fit_image, normalise
from apercu.errors import ImageError, ImagesError
from apercu.images.stretch import Stretch, measure_stretch, subtract_sky

LOW, HIGH, NOISE = -10.0, 1000.0, 5.0


def apply_curve(curve: str, counts: float) -> float:
    """The three curves as a formula of one number."""
    if curve == "arcsinh":
        return math.asinh(counts / NOISE)
    if curve == "log":
        return math.log(1 + (counts - LOW) / NOISE)
    return counts


@pytest.mark.parametrize("curve", ["arcsinh", "log", "linear"])
def test_each_curve_is_its_formula_above_the_sky(curve: str) -> None:
    stretch = Stretch(curve=curve, low=(LOW,), high=(HIGH,), noise=(NOISE,))  # type: ignore[arg-type]
    sky = 340.0
    counts = torch.full((1, 5, 5), sky)
    counts[0, 0, :4] = torch.tensor([sky + 70, sky + HIGH, sky + 5000, sky - 40])
    actual = stretch(counts)[0]
    span = apply_curve(curve, HIGH) - apply_curve(curve, LOW)
    for value, count in ((actual[0, 0], 70.0), (actual[2, 2], 0.0)):
        assert value.item() == pytest.approx(
            (apply_curve(curve, count) - apply_curve(curve, LOW)) / span
        )
    assert actual[0, 1:4].tolist() == pytest.approx([1, 1, 0])


def test_nan_becomes_sky_and_bands_are_independent() -> None:
    stretch = Stretch(low=(-10.0, -1.0), high=(100.0, 10.0), noise=(5.0, 0.5))
    counts = torch.tensor([[[7.0, 7.0, math.nan], [7.0, math.inf, 50.0]]]).repeat(2, 1, 1)
    counts[1] = math.nan
    actual = stretch(counts)
    assert actual[0, 0, 2] == actual[0, 1, 1] == actual[0, 0, 0]
    assert actual[1].unique().numel() == 1
    assert actual[0, 1, 2] > actual[0, 0, 0]


def test_measured_on_a_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for number in range(20):
        picture = 200.0 * number + 3 * torch.randn(2, 32, 32, generator=generator)
        picture[0, 16, 16] += 900
        pictures.append(picture)
    stretch = measure_stretch(pictures, "arcsinh")
    assert stretch.noise == pytest.approx((3, 3), rel=0.1)
    assert stretch.high[0] == pytest.approx(900, abs=15)
    assert stretch.high[1] < 20
    assert -20 < stretch.low[0] < -6


@pytest.mark.parametrize("kind", ["arcsinh", "log", "zscale"])
@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_photon_counts_with_mostly_empty_pixels(kind: str, rate: float) -> None:
    if kind == "zscale":
        pytest.importorskip("astropy.visualization")
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.poisson(torch.full((2, 32, 32), rate), generator) for _ in range(9)]
    for picture in pictures:
        picture[0, 16, 16] += 500
        assert (picture == 0).float().mean() > 0.5
    stretch = measure_stretch(pictures, kind)  # type: ignore[arg-type]
    assert stretch.noise == pytest.approx((1.4826, 1.4826))  # most pixels that have some have one
    stretched = stretch(pictures[0])
    assert stretched[0, 16, 16] == stretched[0].max() > 0.99 and stretched.min() == 0
    one = stretched[0][pictures[0][0] == 1]
    assert (one > stretched[0].min()).all()


def test_saturated_cores_and_blank_pictures_do_not_change_the_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = 50 + 3 * torch.randn(1, 64, 64, generator=generator)
    holed = picture.clone()
    holed[:, :40] = math.nan
    assert measure_stretch([holed], "arcsinh").noise == pytest.approx((3,), rel=0.1)
    alone = measure_stretch([picture], "arcsinh")
    assert measure_stretch([picture, *[torch.full((1, 64, 64), 9.0)] * 3], "arcsinh") == alone


def test_zscale_has_the_limits_of_astropy() -> None:
    visualization = pytest.importorskip("astropy.visualization")
    picture = 5 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0)) + 90
    picture[0, 30:34, 30:34] += 4000
    stretch = measure_stretch([picture], "zscale")
    low, high = visualization.ZScaleInterval().get_limits((picture - picture.median()).numpy())
    assert (stretch.curve, stretch.low[0], stretch.high[0]) == (
        "linear",
        pytest.approx(low, rel=1e-4),
        pytest.approx(high, rel=1e-4),
    )


def test_invalid_stretches_are_refused() -> None:
    with pytest.raises(ImagesError, match="no images to measure"):
        measure_stretch([], "log")
    with pytest.raises(ImagesError, match="band 2 is the same everywhere"):
        picture = torch.rand(2, 8, 8)
        picture[1] = 4
        measure_stretch([picture], "arcsinh")
    with pytest.raises(ValidationError, match="each above its low"):
        Stretch(low=(1.0,), high=(0.0,), noise=(1.0,))
    with pytest.raises(ValidationError, match="each above 0"):
        Stretch(low=(1.0,), high=(2.0,), noise=(0.0,))


def test_classifiers_stretch_before_they_resize_and_refuse_counts_without_a_stretch() -> None:
    stretch = Stretch(low=(-5.0,) * 3, high=(500.0,) * 3, noise=(2.0,) * 3)
    counts = 100 + 400 * torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(1))
    small = fit_image(counts, InputSpec(size=(10, 10), stretch=stretch))
    at_once = fit_image(stretch(counts), InputSpec(size=(10, 10)))
    torch.testing.assert_close(small, at_once)
    with pytest.raises(ImageError, match=r"expected pixels in \[0, 1\].*set input.stretch"):
        fit_image(counts, InputSpec(size=(10, 10)))
    counts[0, 0, 0] = math.nan
    with pytest.raises(ImageError, match=r"set input\.stretch"):
        fit_image(counts / 1000, InputSpec(size=(10, 10)))
    with pytest.raises(ValidationError, match="expected 1 bands"):
        InputSpec(channels=1, size=(10, 10), stretch=stretch)


@pytest.mark.parametrize("curve", ["arcsinh", "log", "linear"])
def test_counts_are_recovered_if_the_sky_is_kept(curve: str) -> None:
    stretch = Stretch(
        curve=curve, low=(-300.0, -10.0), high=(6e4, 4e3), noise=(20.0, 2.0), sky=False
    )  # type: ignore[arg-type]
    counts = 3000 * torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0))
    counts[0, 0, 0] = math.nan
    back = stretch.to_counts(stretch(counts)[None])[0]
    assert back[0, 0, 0].abs() < 0.1
    torch.testing.assert_close(back[1], counts[1], rtol=1e-3, atol=0.1)
    above = Stretch(curve=curve, low=(-3e3,) * 2, high=(6e4,) * 2, noise=(20.0,) * 2)  # type: ignore[arg-type]
    back = above.to_counts(above(counts)[None])[0]
    torch.testing.assert_close(back, subtract_sky(counts), rtol=1e-3, atol=0.1)


def test_a_normalisation_of_counts_receives_counts_after_a_stretch() -> None:
    stretch = Stretch(low=(-500.0,) * 3, high=(6e4,) * 3, noise=(30.0,) * 3, sky=False)
    plain = InputSpec(size=(9, 9), normalise="l2_per_channel")
    both = InputSpec(size=(9, 9), normalise="l2_per_channel", stretch=stretch)
    counts = 200 + 5000 * torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0)) ** 4
    pixels = fit_image(counts, both)
    assert pixels.min() >= 0 and pixels.max() <= 1
    expected = normalise(fit_image(counts, plain)[None], plain)
    torch.testing.assert_close(normalise(pixels[None], both), expected, atol=1e-5, rtol=1e-3)
    assert (plain.takes_raw_counts, both.takes_raw_counts) == (True, False)
    with pytest.raises(ValidationError, match=r"set stretch\.sky to false"):
        InputSpec(
            size=(9, 9),
            normalise="l2_per_channel",
            stretch=stretch.model_copy(update={"sky": True}),
        )
