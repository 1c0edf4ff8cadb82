from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.methods.input_x_gradient import InputXGradient
from apercu.methods.integrated_gradients import IntegratedGradients


def test_is_the_mean_gradient_on_the_path_from_black(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    """Literal: the midpoint rule, one step at a time."""
    steps, total = 60, torch.zeros_like(images)
    for step in range(steps):
        inputs = (images * (step + 0.5) / steps).requires_grad_()
        (slopes,) = torch.autograd.grad(residual(inputs)[range(3), targets].sum(), inputs)
        total += slopes / steps
    expected = (total * images).sum(dim=1)
    maps = IntegratedGradients(steps=60)(residual, images, targets)
    assert (maps - InputXGradient()(residual, images, targets)).abs().max() > 1e-3
    torch.testing.assert_close(maps, expected, atol=5e-4, rtol=1e-2)


def test_sums_up_to_the_logit_minus_that_of_black(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    rise = (residual(images) - residual(torch.zeros_like(images)))[range(3), targets]
    sums = IntegratedGradients()(residual, images, targets).sum(dim=(1, 2))
    assert rise.abs().min() > 0.01
    torch.testing.assert_close(sums, rise, atol=3e-3, rtol=1e-2)


def test_of_one_hidden_layer_counts_each_unit_while_it_is_open(
    opened: Callable[[nn.Module], Classifier], images: torch.Tensor, targets: torch.Tensor
) -> None:
    """A unit max(0, w·x − b) is active on the last 1 − b / (w·x) of the path."""
    torch.manual_seed(0)
    hidden, scores = nn.Linear(3 * 24 * 32, 5), nn.Linear(5, 4)
    with torch.no_grad():
        hidden.weight.abs_().mul_(0.1)
        hidden.bias.copy_(-torch.tensor([0.1, 0.3, 0.5, 0.7, 9.0]) * (hidden.weight.sum(1) / 2))
    classifier = opened(nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), scores))
    flat = images.flatten(1)
    share = (1 + hidden.bias / (flat @ hidden.weight.T)).clamp(min=0)
    assert share[:, :4].min() > 0
    assert share[:, 4].max() == 0
    slopes = (scores.weight[targets] * share) @ hidden.weight
    expected = (flat * slopes).view(3, 3, 24, 32).sum(dim=1).detach()
    maps = IntegratedGradients(steps=100)(classifier, images, targets)
    torch.testing.assert_close(maps, expected, atol=1e-4, rtol=2e-2)


@pytest.mark.parametrize("batch", [1, 2, 7, 1000])
def test_the_batch_changes_only_how_many_are_computed_at_once(
    batch: int, residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    expected = IntegratedGradients(steps=10)(residual, images, targets)
    before = residual.queries
    maps = IntegratedGradients(steps=10, batch=batch)(residual, images, targets)
    assert residual.queries - before == 3 * 10
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("steps", "batch"), [(0, 32), (50, 0)])
def test_no_steps_are_refused(steps: int, batch: int) -> None:
    with pytest.raises(ConfigError, match="steps and batch of at least 1"):
        IntegratedGradients(steps, batch)


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="integrated_gradients needs a classifier with grad"):
        IntegratedGradients()(black_box, images, targets)
