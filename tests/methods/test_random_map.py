from __future__ import annotations

import pytest
import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.maps import resize_maps
from apercu.methods.baselines import RandomMap


def test_depends_on_the_image_and_the_seed_alone(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    first = RandomMap()(residual, images, targets)
    turned = images.flip(0).contiguous(memory_format=torch.channels_last)
    assert torch.equal(RandomMap()(residual, turned, targets * 0), first.flip(0))
    assert not torch.equal(RandomMap(seed=1)(residual, images, targets), first)
    assert not torch.equal(first[0], first[1])


def test_changes_with_a_single_pixel(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    changed = images.clone()
    changed[1, 2, 5, 7] = 1 - changed[1, 2, 5, 7]
    same = RandomMap()(residual, images, targets) == RandomMap()(residual, changed, targets)
    assert same.all(dim=2).all(dim=1).tolist() == [True, False, True]


def test_every_pixel_is_uniform(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    maps = RandomMap()(residual, images, targets).flatten()
    torch.testing.assert_close(
        maps.quantile(torch.tensor([0.1, 0.5, 0.9])),
        torch.tensor([0.1, 0.5, 0.9]),
        atol=0.03,
        rtol=0,
    )


def test_a_grid_makes_it_smooth(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    maps = RandomMap(grid=2)(residual, images, targets)
    corners = maps[:, [0, 0, -1, -1], [0, -1, 0, -1]].view(3, 2, 2)
    torch.testing.assert_close(maps, resize_maps(corners, (24, 32)))
    one = RandomMap(grid=1)(residual, images, targets)
    torch.testing.assert_close(one, one[:, :1, :1].expand_as(one))


def test_queries_nothing(residual: Classifier, images: torch.Tensor, targets: torch.Tensor) -> None:
    before = residual.queries
    RandomMap()(residual, images, targets)
    assert residual.queries == before


def test_a_grid_without_cells_is_refused() -> None:
    with pytest.raises(ConfigError, match="grid of at least 1, got 0"):
        RandomMap(grid=0)
