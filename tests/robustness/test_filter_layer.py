from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from apercu.errors import ConfigError
from apercu.filters import FILTERS, FilterLayer, Jpeg
from apercu.filters.purifier import Purifier

every_filter = pytest.mark.parametrize(
    "name", [name for name, kind in FILTERS.items() if not issubclass(kind, Purifier)]
)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def weights() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backward", ["straight_through", "surrogate"])
@every_filter
def test_forward_is_exactly_the_filter(name: str, backward: Any, images: torch.Tensor) -> None:
    layer = FilterLayer(FILTERS[name](), backward)
    assert torch.equal(layer(images), FILTERS[name]()(images))
    with torch.no_grad():
        assert torch.equal(layer(images), FILTERS[name]()(images))


@every_filter
def test_straight_through_passes_gradients(
    name: str, images: torch.Tensor, weights: torch.Tensor
) -> None:
    layer = FilterLayer(FILTERS[name](), "straight_through")
    (gradients,) = torch.autograd.grad((layer(images) * weights).sum(), images)
    assert torch.equal(gradients, weights)


@every_filter
def test_surrogate_has_the_gradient_of_the_surrogate(
    name: str, images: torch.Tensor, weights: torch.Tensor
) -> None:
    layer = FilterLayer(FILTERS[name](), "surrogate")
    (gradients,) = torch.autograd.grad((layer(images) * weights).sum(), images)
    (expected,) = torch.autograd.grad(
        (FILTERS[name]().apply_surrogate(images) * weights).sum(), images
    )
    torch.testing.assert_close(gradients, expected)
    assert not torch.equal(gradients, weights)


def test_stands_in_front_of_any_module(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    whole = nn.Sequential(FilterLayer(Jpeg(30), "straight_through"), network)
    assert torch.equal(whole(images), network(Jpeg(30)(images)))
    assert "Jpeg(quality=30), backward=straight_through" in repr(whole)
    assert not list(whole[0].parameters())


def test_another_backward_pass_is_refused(shapes_unchecked: None) -> None:
    with pytest.raises(
        ConfigError, match="backward: expected straight_through or surrogate, got back"
    ):
        FilterLayer(Jpeg(), "back")  # type: ignore[arg-type]
