from __future__ import annotations

import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods import Occlusion


@pytest.mark.parametrize(
    ("window", "stride", "pixels", "step"),
    [(0.25, 0.125, (6, 8), (3, 4)), (0.5, 0.3, (12, 16), (7, 10)), (1.0, 1.0, (24, 32), (24, 32))],
)
def test_equals_captum(
    window: float,
    stride: float,
    pixels: tuple[int, int],
    step: tuple[int, int],
    residual: Classifier,
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    expected = CaptumOcclusion(residual).attribute(
        images,
        target=targets,
        sliding_window_shapes=(3, *pixels),
        strides=(3, *step),
        baselines=images.mean(dim=(2, 3), keepdim=True).expand_as(images),
    )
    maps = Occlusion(window, stride)(residual, images, targets)
    torch.testing.assert_close(maps, expected[:, 0].detach(), atol=1e-5, rtol=1e-4)


def test_of_a_linear_model_is_the_mean_drop_of_the_patches(
    linear: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    assert linear.module is not None
    weights = linear.module[1].weight.detach().view(-1, 3, 24, 32)[targets] / 0.25
    falls = (weights * (images - images.mean(dim=(2, 3), keepdim=True))).sum(dim=1)
    maps = Occlusion(window=0.5, stride=0.5)(linear, images, targets)
    for down in (slice(0, 12), slice(12, 24)):
        for across in (slice(0, 16), slice(16, 32)):
            block = falls[:, down, across].sum(dim=(1, 2))
            expected = block[:, None, None].expand(3, 12, 16)
            torch.testing.assert_close(maps[:, down, across], expected, atol=1e-4, rtol=1e-4)


def test_the_batch_changes_only_how_many_are_computed_at_once(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    many, few = (Occlusion(batch=size)(black_box, images, targets) for size in (1000, 7))
    torch.testing.assert_close(many, few, atol=1e-5, rtol=1e-5)


def test_queries_once_for_the_image_and_once_for_each_patch(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    before = residual.queries
    Occlusion(window=0.25, stride=0.25)(residual, images, targets)
    assert residual.queries - before == 3 * (1 + 16)


@pytest.mark.parametrize(("window", "stride"), [(0.0, 0.1), (0.1, 0.2), (1.5, 0.1), (0.5, 0.0)])
def test_gaps_between_patches_are_refused(window: float, stride: float) -> None:
    with pytest.raises(ConfigError, match="0 < stride <= window <= 1"):
        Occlusion(window, stride)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch of at least 1"):
        Occlusion(batch=0)
