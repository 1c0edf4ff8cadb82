from __future__ import annotations

import pytest
import torch

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.methods import Gradient


def test_of_a_linear_model_is_its_largest_weight(
    linear: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    assert linear.module is not None
    weights = linear.module[1].weight.detach().view(-1, 3, 24, 32) / 0.25
    torch.testing.assert_close(
        Gradient()(linear, images, targets), weights[targets].abs().amax(dim=1)
    )


def test_is_the_gradient_of_the_logit(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    inputs = images.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(residual(inputs)[range(3), targets].sum(), inputs)
    torch.testing.assert_close(
        Gradient()(residual, images, targets), slopes.abs().amax(dim=1), atol=1e-6, rtol=1e-5
    )


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(
        ClassifierError,
        match="gradient needs a classifier with gradients, and tests:asked gives none",
    ):
        Gradient()(black_box, images, targets)
