from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apercu.classifiers import Classifier, open_classifier
from apercu.errors import ConfigError
from apercu.methods import CentreBox, Gradient
from apercu.metrics.max_sensitivity import SensitivityNoise, max_sensitivity

TARGETS = torch.tensor([0, 1, 2])


@pytest.fixture
def classifier(tiny_card: Path) -> Classifier:
    return open_classifier(tiny_card)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_is_the_largest_relative_change_of_a_literal_loop(
    classifier: Classifier, images: torch.Tensor
) -> None:
    noise, method = SensitivityNoise(radius=0.1, draws=4, seed=2), Gradient()
    generator = torch.Generator().manual_seed(2)
    drawn = [(torch.rand(3, 32, 32, generator=generator) * 2 - 1) * 0.1 for _ in range(4)]
    literal = []
    for image, target in zip(images, TARGETS, strict=True):
        before = method(classifier, image[None], target[None])
        moves = [
            method(classifier, (image + some).clamp(0, 1)[None], target[None]) - before
            for some in drawn
        ]
        literal.append(max(float(move.norm() / before.norm()) for move in moves))
    result = max_sensitivity(method, classifier, images, TARGETS, noise)
    torch.testing.assert_close(result, torch.tensor(literal), rtol=1e-4, atol=1e-6)
    assert (result > 0).all()


def test_noise_stays_within_its_radius_and_the_range_of_images(
    classifier: Classifier, images: torch.Tensor
) -> None:
    received = []

    def watch(_: Classifier, images: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
        received.append(images)
        return images[:, 0]

    images[0], images[1] = 0, 1
    max_sensitivity(watch, classifier, images, TARGETS, SensitivityNoise(radius=0.05, draws=3))
    assert len(received) == 4
    for noisy in received[1:]:
        assert noisy.min() >= 0
        assert noisy.max() <= 1
        assert 0.049 < (noisy - images).abs().max() <= 0.0501
    assert not torch.equal(received[1], received[2])


def test_a_map_that_ignores_the_image_does_not_change(
    classifier: Classifier, images: torch.Tensor
) -> None:
    assert max_sensitivity(CentreBox(), classifier, images, TARGETS).tolist() == [0] * 3


@pytest.mark.parametrize(("later", "expected"), [(0.0, 0.0), (0.3, 1.0)])
def test_a_map_of_zeros_has_a_score(
    classifier: Classifier, images: torch.Tensor, later: float, expected: float
) -> None:
    values = iter([0.0] + [later] * 10)

    def empty(_: Classifier, images: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
        return torch.full_like(images[:, 0], next(values))

    assert max_sensitivity(empty, classifier, images, TARGETS).tolist() == [expected] * 3


@pytest.mark.parametrize("setting", [{"radius": 0.0}, {"draws": 0}])
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected a radius above 0 and at least 1 draw"):
        SensitivityNoise(**setting)  # type: ignore[arg-type]


def test_raw_counts_change_by_a_fraction_of_their_range(
    classifier: Classifier, images: torch.Tensor
) -> None:
    def brightness(_: Classifier, images: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=1)

    images[:, 0, 0, 0], images[:, 0, 0, 1] = 0, 1
    small = max_sensitivity(brightness, classifier, images, TARGETS)
    large = max_sensitivity(brightness, classifier, images * 5000, TARGETS)
    torch.testing.assert_close(large, small, rtol=1e-4, atol=1e-6)
