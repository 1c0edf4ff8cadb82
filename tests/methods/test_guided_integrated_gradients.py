from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.methods.guided_integrated_gradients import GuidedIntegratedGradients
from apercu.methods.integrated_gradients import IntegratedGradients


class Pooled(nn.Module):
    """A convolution, a ReLU, max pooling, a linear layer."""

    def __init__(
        self,
        pool: Callable[[torch.Tensor], torch.Tensor],
        bend: Callable[[torch.Tensor], torch.Tensor] = F.relu,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 6, 3, stride=2)
        self.head = nn.Linear(6, 4)
        self.pool, self.bend = pool, bend

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        places = self.pool(self.bend(self.features(images)))
        return self.head(places.mean(dim=(2, 3)))


def literal(network: Pooled, image: torch.Tensor, target: int, steps: int) -> torch.Tensor:
    """Kwon et al., backwards by hand: gradients pass pooling and ReLU only where positive."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(image)
    for node, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
        before = network.features(image[None] * float(node))
        after = before.clamp(min=0)
        pooled, places = F.max_pool2d(after, 2, return_indices=True)
        above = network.head.weight[target][None, :, None, None] / pooled[0, 0].numel()
        above = above.clamp(min=0).expand_as(pooled)
        below = F.max_unpool2d(above, places, 2, output_size=after.shape[2:])
        slopes = below.clamp(min=0) * (before > 0)
        back = F.conv_transpose2d(slopes, network.features.weight, stride=2)
        total += F.pad(back, (0, 1, 0, 1))[0, :, :24, :32] * weight
    return (total * image).sum(dim=0).detach()


@pytest.mark.parametrize("steps", [1, 7])
def test_is_the_literal_backward_pass_at_every_step(
    steps: int,
    opened: Callable[[nn.Module], Classifier],
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    network = Pooled(nn.MaxPool2d(2))
    maps = GuidedIntegratedGradients(steps)(opened(network), images, targets)
    pairs = zip(images, targets.tolist(), strict=True)
    expected = torch.stack([literal(network, *pair, steps) for pair in pairs])
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)
    plain = IntegratedGradients(steps)(opened(network), images, targets)
    assert not torch.allclose(maps, plain, atol=1e-4)


@pytest.mark.parametrize(
    "pool",
    [
        *(nn.MaxPool2d(2), nn.MaxPool2d(2, return_indices=True)),
        *(nn.AdaptiveMaxPool2d(2), nn.AdaptiveMaxPool2d(2, return_indices=True)),
    ],
    ids=str,
)
def test_pooling_alone_is_guided(
    pool: nn.Module,
    opened: Callable[[nn.Module], Classifier],
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    """Without a ReLU, the gradients are those of a head with positive weights only."""

    def first(features: torch.Tensor) -> torch.Tensor:
        answer = pool(features)
        return answer[0] if isinstance(answer, tuple) else answer

    network, positive = Pooled(first, nn.Identity()), Pooled(first, nn.Identity())
    with torch.no_grad():
        positive.head.weight.clamp_(min=0)
    maps = GuidedIntegratedGradients(5)(opened(network), images, targets)
    expected = IntegratedGradients(5)(opened(positive), images, targets)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)


def test_a_classifier_without_relu_is_refused(
    linear: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(
        ClassifierError, match="guided_integrated_gradients needs a classifier with"
    ):
        GuidedIntegratedGradients()(linear, images, targets)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps and batch of at least 1"):
        GuidedIntegratedGradients(steps=0)


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match=r"guided_integrated_gradients needs .* gradients"):
        GuidedIntegratedGradients()(black_box, images, targets)
