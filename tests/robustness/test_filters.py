"""What every filter owes its caller, whatever it does."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch

from apercu import filters
from apercu.errors import ConfigError
from apercu.filters import FILTERS, Filter
from apercu.filters.purifier import Purifier

PLAIN = [name for name, kind in FILTERS.items() if not issubclass(kind, Purifier)]
"""Filters that need no folder; see test_purifiers.py for the others."""
every_filter = pytest.mark.parametrize("name", PLAIN)

OTHER: dict[str, dict[str, Any]] = {
    "floyd_steinberg": {"bits": 2, "scan": "serpentine", "channels": "grey"},
    "jarvis_judice_ninke": {"bits": 2, "scan": "serpentine", "channels": "grey"},
    "atkinson": {"bits": 2, "scan": "serpentine", "channels": "grey"},
    "bayer": {"bits": 2, "size": 4, "channels": "grey"},
    "blue_noise": {"bits": 2, "seed": 1, "channels": "grey"},
    "jpeg": {"quality": 30},
    "bit_depth": {"bits": 2},
    "median": {"width": 5},
    "gaussian": {"sigma": 2.0},
    "total_variation": {"weight": 0.2, "steps": 5},
    "non_local_means": {"strength": 0.3, "window": 5, "patch": 5},
    "low_resolution": {"factor": 3},
    "inverse_halftone": {"detail": 0.0},
}
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("floyd_steinberg", {"bits": 5}),
    ("atkinson", {"scan": "spiral"}),
    ("jarvis_judice_ninke", {"channels": "red"}),
    ("bayer", {"bits": 0}),
    ("bayer", {"size": 3}),
    ("bayer", {"channels": "red"}),
    ("blue_noise", {"seed": -1}),
    ("blue_noise", {"channels": "red"}),
    ("jpeg", {"quality": 0}),
    ("bit_depth", {"bits": 1.5}),
    ("median", {"width": 4}),
    ("median", {"width": 27}),
    ("gaussian", {"sigma": 1e5}),
    ("gaussian", {"sigma": 0.0}),
    ("gaussian", {"sigma": float("nan")}),
    ("total_variation", {"weight": -1.0}),
    ("total_variation", {"steps": 0}),
    ("non_local_means", {"strength": float("inf")}),
    ("non_local_means", {"strength": 1e-30}),
    ("non_local_means", {"patch": 1}),
    ("low_resolution", {"factor": 1}),
    ("inverse_halftone", {"detail": 1.5}),
    ("inverse_halftone", {"detail": float("nan")}),
]


def random_images(*shape: int) -> torch.Tensor:
    """Noise, a ramp and a flat image, so that nothing is easy."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    images[0] = torch.linspace(0, 1, shape[3])
    images[-1] = 1.0
    return images


def test_every_final_filter_has_its_name() -> None:
    exported = {
        one
        for _, one in inspect.getmembers(filters, inspect.isclass)
        if issubclass(one, Filter) and not inspect.isabstract(one)
    }
    assert exported == set(FILTERS.values())
    for name, kind in FILTERS.items():
        assert name == re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


@every_filter
class TestEvery:
    @pytest.mark.parametrize("shape", [(3, 1, 8, 8), (4, 3, 13, 21), (3, 5, 9, 8)], ids=str)
    def test_images_stay_images(self, name: str, shape: tuple[int, ...]) -> None:
        images = random_images(*shape)
        for one in (FILTERS[name](), FILTERS[name](**OTHER[name])):
            result = one(images)
            assert result.shape == images.shape
            assert result.dtype == images.dtype
            assert result.isfinite().all()
            assert result.amin() >= 0 and result.amax() <= 1
            assert not torch.equal(result, images)

    def test_nothing_leaks(self, name: str) -> None:
        images = random_images(3, 3, 13, 21).requires_grad_()
        before = images.detach().clone()
        result = FILTERS[name]()(images)
        assert not result.requires_grad
        result.zero_()
        assert torch.equal(images, before)
        assert torch.is_grad_enabled()

    def test_a_batch_equals_its_singles(self, name: str) -> None:
        images = random_images(7, 3, 13, 21)
        for one in (FILTERS[name](), FILTERS[name](**OTHER[name])):
            alone = torch.cat([one(image) for image in images.split(1)])
            torch.testing.assert_close(one(images), alone, atol=1e-6, rtol=0)

    def test_filters_are_values(self, name: str) -> None:
        first, other = FILTERS[name](), FILTERS[name](**OTHER[name])
        assert first == FILTERS[name]() != other
        assert hash(first) == hash(FILTERS[name]())
        assert eval(repr(other), vars(filters)) == other
        field = dataclasses.fields(first)[0].name  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
            setattr(first, field, 1)

    def test_every_setting_has_an_effect(self, name: str) -> None:
        images = random_images(3, 3, 21, 34)
        default = FILTERS[name]()(images)
        names = {field.name for field in dataclasses.fields(FILTERS[name])}  # type: ignore[arg-type]
        assert names == set(OTHER[name])
        for setting, value in OTHER[name].items():
            assert not torch.equal(FILTERS[name](**{setting: value})(images), default), setting

    def test_precision_is_kept(self, name: str) -> None:
        images = random_images(3, 3, 8, 8)
        result = FILTERS[name]()(images.double())
        assert result.dtype == torch.float64
        torch.testing.assert_close(result.float(), FILTERS[name]()(images), atol=1e-4, rtol=0)

    def test_the_surrogate_has_gradients_and_resembles_the_filter(self, name: str) -> None:
        ramp = torch.linspace(0.02, 0.98, 32).expand(32, 32)
        images = torch.stack([ramp, ramp.T, torch.full((32, 32), 0.4)])[None].requires_grad_()
        for one in (FILTERS[name](), FILTERS[name](**OTHER[name])):
            result = one.apply_surrogate(images)
            assert result.shape == images.shape
            (gradient,) = torch.autograd.grad(result.square().sum(), images)
            assert gradient.isfinite().all()
            assert (gradient.abs() > 1e-4).float().mean() > 0.9
            means = torch.nn.functional.avg_pool2d(result.detach() - one(images), 16)
            assert means.abs().amax() < 0.1


@pytest.mark.parametrize(("name", "settings"), WRONG, ids=str)
def test_settings_out_of_range_are_refused(
    name: str, settings: dict[str, Any], shapes_unchecked: None
) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}.*expected .*, got ") as caught:
        FILTERS[name](**settings)
    assert "\n" not in str(caught.value)


class Halved(Filter):
    """What no filter may do."""

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, ::2]

    apply_surrogate = apply


@pytest.mark.usefixtures("shapes_unchecked")
def test_a_filter_keeps_the_size() -> None:
    with pytest.raises(
        ConfigError, match="expected an image of 3×8×8, got 3×4×8; a filter has to keep the size"
    ):
        Halved()(torch.rand(2, 3, 8, 8))


def test_low_resolution_is_pillow_s_box_of_whole_areas() -> None:
    from PIL import Image

    images = torch.rand(1, 1, 12, 8, generator=torch.Generator().manual_seed(5))
    picture = Image.fromarray(images[0, 0].numpy()).reduce(4)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(picture))[None, None], (12, 8), mode="bilinear"
    )
    torch.testing.assert_close(FILTERS["low_resolution"](factor=4)(images), expected)
