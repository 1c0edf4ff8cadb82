from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods import CentreBox, Gradient, MapExplainer, TrainedMethod
from apercu.methods.smoothed import Smoothed


def test_equals_scipy_on_the_map(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    maps = Smoothed(Gradient(), sigma=2 / 24)(residual, images, targets)
    for smooth, rough in zip(maps, Gradient()(residual, images, targets), strict=True):
        expected = torch.from_numpy(gaussian_filter(rough.double().numpy(), 2, truncate=3))
        torch.testing.assert_close(smooth.double(), expected, atol=1e-7, rtol=1e-4)


def test_no_evidence_is_lost_at_the_border(residual: Classifier, targets: torch.Tensor) -> None:
    spot = torch.zeros(3, 24, 32)
    spot[:, 0, 0] = 1
    trained = TrainedMethod(lambda images, targets: spot, "spot", 60.0)
    maps = Smoothed(trained, sigma=0.1)(residual, torch.zeros(3, 3, 24, 32), targets)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(3))
    assert maps.amax() < 0.2


def test_a_wrapper_has_the_needs_and_the_scale_of_its_explainer() -> None:
    trained = Smoothed(TrainedMethod(lambda images, targets: images[:, 0], "abc", 60.0))
    assert isinstance(trained, MapExplainer)
    assert (trained.map_scale, trained.training_seconds) == ("mask", 60.0)
    assert (Smoothed(Gradient()).map_scale, Smoothed(CentreBox()).map_scale) == ("map", "mask")
    assert Smoothed(Gradient()).cache_key == "Smoothed(method=Gradient(), sigma=0.03)"
    assert Smoothed(CentreBox(0.3)) == Smoothed(CentreBox(0.3)) != Smoothed(CentreBox(0.4))


def test_no_blur_is_refused() -> None:
    with pytest.raises(ConfigError, match="finite sigma above 0, got 0"):
        Smoothed(Gradient(), sigma=0.0)
