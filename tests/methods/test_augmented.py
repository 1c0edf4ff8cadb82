from __future__ import annotations

import math

import pytest
import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods import CentreBox, Gradient, MapExplainer, TrainedMethod
from apercu.methods.augmented import Augmented

TARGETS = torch.tensor([0])


def make_recording_explainer(received: list[torch.Tensor]) -> TrainedMethod:
    """An explainer whose map is the first channel of its images."""

    def attribute(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        received.append(images)
        return images[:, 0]

    return TrainedMethod(attribute, "recording", 60.0)


def blob(row: float, column: float, size: tuple[int, int] = (96, 144)) -> torch.Tensor:
    """A round spot in an image."""
    rows, columns = (torch.arange(float(side)) for side in size)
    distance = (rows[:, None] - row) ** 2 + (columns - column) ** 2
    return torch.exp(-distance / (2 * 3.0**2)).expand(1, 3, *size)


def centre(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean position of a spot's pixels (row, column from the centre), and their covariance."""
    height, width = image.shape
    rows = torch.arange(height) - (height - 1) / 2
    columns = torch.arange(width) - (width - 1) / 2
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)
    weights = image.flatten() / image.sum()
    mean = places @ weights
    off = places - mean[:, None]
    return mean, (off * weights) @ off.T


def draws(method: Augmented) -> torch.Tensor:
    generator = torch.Generator().manual_seed(method.seed)
    shape = (method.copies - 1, 5)
    return torch.rand(shape, generator=generator, dtype=torch.float64).float() * 2 - 1


def test_copies_are_rotated_scaled_shifted_and_mirrored_without_distortion(
    residual: Classifier,
) -> None:
    """The spot of each copy stays round and lies at the computed position."""
    received: list[torch.Tensor] = []
    method = Augmented(
        make_recording_explainer(received), copies=12, degrees=40.0, zoom=1.5, shift=0.05
    )
    image = blob(44, 80)
    method(residual, image, TARGETS)
    assert len(received) == 12
    assert torch.equal(received[0], image)
    start, _ = centre(image[0, 0])
    mirrored = set()
    for copy, (turn, grow, right, down, mirror) in zip(
        received[1:], draws(method).tolist(), strict=True
    ):
        angle, scale = math.radians(turn * 40), 1.5**grow
        flip = -1 if mirror < 0 else 1
        mirrored.add(flip)
        across, along = start[1] - 0.05 * right * 144, start[0] - 0.05 * down * 96
        cos, sin = math.cos(angle), math.sin(angle)
        expected = scale * torch.tensor(
            [cos * along - sin * across, flip * (cos * across + sin * along)]
        )
        result, spread = centre(copy[0, 0])
        torch.testing.assert_close(result, expected, atol=0.1, rtol=0.01)
        torch.testing.assert_close(spread, 9 * scale**2 * torch.eye(2), atol=0.7, rtol=0.05)
    assert mirrored == {-1, 1}


def test_maps_are_moved_back(residual: Classifier) -> None:
    image = blob(44, 80)
    result = Augmented(make_recording_explainer([]), copies=12, degrees=40.0, zoom=1.5)(
        residual, image, TARGETS
    )
    torch.testing.assert_close(result, image[:, 0], atol=0.06, rtol=0)


def test_mirrored_copies_average_a_map_with_its_mirrored_twin(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    method = Augmented(Gradient(), copies=3, degrees=0.0, zoom=1.0, shift=0.0)
    flips = (draws(method)[:, 4] < 0).tolist()
    assert sorted(flips) == [False, True]
    plain = Gradient()(residual, images, targets)
    twin = Gradient()(residual, images.flip(3), targets).flip(2)
    maps = method(residual, images, targets)
    torch.testing.assert_close(maps, (2 * plain + twin) / 3, atol=1e-5, rtol=1e-3)


def test_borders_do_not_fade(residual: Classifier) -> None:
    """The mean of a pixel is taken over the copies that contain it."""
    flat = torch.full((1, 3, 24, 32), 0.7)
    method = Augmented(make_recording_explainer([]), copies=8, degrees=90.0, zoom=2.0, shift=0.5)
    torch.testing.assert_close(method(residual, flat, TARGETS), flat[:, 0])


def test_one_copy_is_the_image_itself(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    maps = Augmented(Gradient(), copies=1)(residual, images, targets)
    assert torch.equal(maps, Gradient()(residual, images, targets))


def test_the_seed_draws_the_transforms(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    before = residual.queries
    first, second = (Augmented(Gradient(), 4, seed)(residual, images, targets) for seed in (0, 1))
    assert residual.queries - before == 2 * 4 * 3
    assert not torch.allclose(first, second, atol=1e-4)


def test_a_wrapper_has_the_needs_and_the_scale_of_its_explainer() -> None:
    trained = Augmented(make_recording_explainer([]))
    assert isinstance(trained, MapExplainer)
    assert (trained.map_scale, trained.training_seconds) == ("mask", 60.0)
    assert (Augmented(Gradient()).map_scale, Augmented(CentreBox()).map_scale) == ("map", "mask")
    assert Augmented(Gradient(), 4).cache_key == (
        "Augmented(method=Gradient(), copies=4, seed=0, degrees=15.0, zoom=1.2, shift=0.1)"
    )
    assert Augmented(CentreBox(0.3)) == Augmented(CentreBox(0.3)) != Augmented(CentreBox(0.4))


@pytest.mark.parametrize(
    "settings", [{"copies": 0}, {"degrees": -1.0}, {"zoom": 0.9}, {"shift": 1.0}, {"shift": -0.1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"augmented: expected .* got "):
        Augmented(Gradient(), **settings)  # type: ignore[arg-type]
