from __future__ import annotations

import pytest
import torch

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.methods import Gradient
from apercu.methods.smooth_grad import NoisyCopies, SmoothGrad


def test_is_the_mean_gradient_of_noisy_copies(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    """Literal: one image and one copy at a time."""
    expected = []
    for image, target in zip(images, targets.tolist(), strict=True):
        generator = torch.Generator().manual_seed(3)
        total = torch.zeros_like(image)
        for _ in range(6):
            noise = torch.randn(image.shape, generator=generator) * 0.2
            copy = image + noise * (image.max() - image.min())
            copy = copy[None].requires_grad_()
            (slopes,) = torch.autograd.grad(
                residual.compute_logits_unchecked(copy)[0, target], copy
            )
            total += slopes[0] / 6
        expected.append(total.abs().amax(dim=0))
    maps = SmoothGrad(samples=6, noise=0.2, seed=3)(residual, images, targets)
    torch.testing.assert_close(maps, torch.stack(expected), atol=1e-6, rtol=1e-4)
    assert not torch.allclose(maps, SmoothGrad(6, 0.2, seed=4)(residual, images, targets))


def test_of_a_linear_model_is_its_gradient(
    linear: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    torch.testing.assert_close(
        SmoothGrad(samples=3)(linear, images, targets), Gradient()(linear, images, targets)
    )


def test_with_little_noise_is_the_gradient(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    maps = SmoothGrad(samples=2, noise=1e-7)(residual, images, targets)
    expected = Gradient()(residual, images, targets)
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("batch", [1, 2, 4, 100])
def test_the_batch_changes_only_how_many_are_computed_at_once(
    batch: int, residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    before = residual.queries
    maps = SmoothGrad(samples=5, batch=batch)(residual, images, targets)
    assert residual.queries - before == 3 * 5
    expected = SmoothGrad(samples=5)(residual, images, targets)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)


def test_noise_is_a_fraction_of_the_range(targets: torch.Tensor) -> None:
    images = torch.full((3, 3, 24, 32), 0.4)
    images[0, 0, 0, :2] = torch.tensor([0.0, 0.8])
    images[1, 0, 0, :2] = torch.tensor([0.3, 0.5])
    received: list[torch.Tensor] = []

    def ask(clean: torch.Tensor, noisy: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(clean, images.repeat(len(clean) // 3, 1, 1, 1))
        received.append(noisy.unflatten(0, (-1, 3)))
        return noisy

    mean = NoisyCopies(samples=8, noise=0.1, seed=0, batch=9).average(ask, images, targets)
    copies = torch.cat(received)
    assert copies.shape[0] == 8
    torch.testing.assert_close(mean, copies.mean(dim=0))
    spread = copies.std(dim=(0, 2, 3, 4))
    torch.testing.assert_close(spread, torch.tensor([0.08, 0.02, 0.0]), atol=1e-9, rtol=0.02)
    assert copies[:, 0].min() < 0
    torch.testing.assert_close(
        4 * (copies[:, 1] - 0.4)[..., 1:, :], (copies[:, 0] - 0.4)[..., 1:, :]
    )


@pytest.mark.parametrize("settings", [{"samples": 0}, {"batch": 0}, {"noise": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"noisy copies: expected .*, got .*\b0"):
        SmoothGrad(**settings)  # type: ignore[arg-type]


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="smooth_grad needs a classifier with gradients"):
        SmoothGrad()(black_box, images, targets)
