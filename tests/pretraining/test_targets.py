"""Magnitudes measured on images, against closed forms."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch

from apercu.errors import ImagesError
from apercu.images import Item, open_images
from apercu.pretraining.targets import (
    ZERO_POINT,
    Brightness,
    CatalogueValues,
    PretrainImages,
    fit_brightness,
    measure_magnitudes,
)


def _disc(flux: float, sky: float = 50.0) -> torch.Tensor:
    """A source of one pixel in the centre of two bands; the second is ten times as bright."""
    picture = torch.full((2, 21, 21), sky)
    picture[:, 10, 10] += torch.tensor([flux, 10 * flux])
    return picture


def test_a_magnitude_is_the_logarithm_of_the_flux_above_the_sky() -> None:
    magnitudes = measure_magnitudes(_disc(400.0), 4.0)
    assert magnitudes.tolist() == pytest.approx([-2.5 * math.log10(400), -2.5 * math.log10(4000)])
    beside = _disc(400.0)
    beside[:, 2, 2] += 1e6  # out of the aperture
    torch.testing.assert_close(measure_magnitudes(beside, 4.0), magnitudes)
    assert measure_magnitudes(beside, 12.0)[0] < magnitudes[0] - 5


def test_useless_apertures_give_nan() -> None:
    dark = _disc(400.0)
    dark[0, 10, 10] = 0
    assert measure_magnitudes(dark, 4.0).isnan().tolist() == [True, False]
    saturated = _disc(400.0)
    saturated[0, 10, 11] = math.nan  # one pixel, but in the middle
    assert measure_magnitudes(saturated, 4.0).isnan().tolist() == [True, False]
    edge = _disc(400.0)
    edge[:, 10, 14] = math.nan
    torch.testing.assert_close(measure_magnitudes(edge, 4.0), measure_magnitudes(_disc(400.0), 4.0))
    edge[:, :9] = math.nan
    assert measure_magnitudes(edge, 4.0).isnan().all()


@pytest.mark.parametrize("unit", [1.0, 1e-10, 1e-17])
def test_any_unit_of_counts_can_be_regressed(unit: float) -> None:
    pictures = [_disc(flux) * unit for flux in (100.0, 400.0, 1600.0)]
    measure = fit_brightness(pictures, 4.0, 30.0)
    magnitudes = torch.stack([measure(0, Item("", p, None, None, None)) for p in pictures])
    assert magnitudes.min() > 0 and magnitudes.max() < 30
    assert (magnitudes[0] - magnitudes[1]).tolist() == pytest.approx(
        [2.5 * math.log10(4)] * 2, abs=1e-3
    )
    if unit == 1:
        assert measure == Brightness(4.0, ZERO_POINT)


def test_empty_images_are_refused() -> None:
    with pytest.raises(ImagesError, match="no image is brighter than its sky within 3 pixels"):
        fit_brightness([torch.ones(1, 9, 9)], 3.0, 30.0)


def test_rows_of_a_table_belong_to_indices() -> None:
    values = torch.arange(6.0).view(3, 2)
    item = Item("", torch.ones(1, 2, 2), None, None, None)
    assert CatalogueValues(values)(1, item).tolist() == [2, 3]


def test_digests_are_those_that_run_folders_hold() -> None:
    """Trainings can be continued after an update."""
    source = open_images("planted:size=32,images=2,classes=2")
    measured = PretrainImages(source, Brightness(6.0, 25.0))
    text = f"((), {source.names!r}, Brightness(radius=6.0, zero=25.0))"
    assert measured.digest == hashlib.sha256(text.encode()).hexdigest()[:16]
    values = torch.arange(4.0).view(2, 2)
    listed = PretrainImages(source, CatalogueValues(values), ("g", "r"))
    text = f"(('g', 'r'), {source.names!r}, Listed())"
    content = text.encode() + values.numpy().tobytes()
    assert listed.digest == hashlib.sha256(content).hexdigest()[:16]
    assert PretrainImages(source).digest == ""
    assert (listed.name_value(1), measured.name_value(1)) == ("r", "2")
