from __future__ import annotations

import pytest
import torch

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.methods.input_x_gradient import InputXGradient


def test_of_a_linear_model_is_weight_times_pixel(
    linear: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    assert linear.module is not None
    weights = linear.module[1].weight.detach().view(-1, 3, 24, 32)[targets] / 0.25
    torch.testing.assert_close(
        InputXGradient()(linear, images, targets), (weights * images).sum(dim=1)
    )


def test_is_the_signed_gradient_times_the_pixel(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    inputs = images.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(residual(inputs)[range(3), targets].sum(), inputs)
    maps = InputXGradient()(residual, images, targets)
    assert maps.min() < 0 < maps.max()
    torch.testing.assert_close(maps, (slopes * images).sum(dim=1), atol=1e-6, rtol=1e-5)


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="input_x_gradient needs a classifier with gradients"):
        InputXGradient()(black_box, images, targets)
