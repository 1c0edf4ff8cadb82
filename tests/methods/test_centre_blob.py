from __future__ import annotations

from math import exp

import pytest
import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods import CentreBlob


def test_is_the_gaussian_of_the_distance_from_the_middle(
    residual: Classifier, targets: torch.Tensor
) -> None:
    maps = CentreBlob(width=0.5)(residual, torch.zeros(1, 3, 24, 32), targets[:1])[0]
    assert maps.shape == (24, 32)
    for row, column in ((0, 0), (11, 16), (23, 5)):
        down, across = (row + 0.5) / 12 - 1, (column + 0.5) / 16 - 1
        expected = exp(-(down**2 + across**2) / (2 * 0.5**2))
        assert maps[row, column].item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(maps, maps.flip(0).flip(1))


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_a_blob_without_width_is_refused(width: float) -> None:
    with pytest.raises(ConfigError, match="centre_blob: expected width above 0"):
        CentreBlob(width=width)
