"""SmoothGrad: the gradient, averaged over noisy copies of the image (Smilkov et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import ClassVar, TypeAlias, final

import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.types import Images, Maps, Targets

PixelFunction: TypeAlias = Callable[[Images, Images, Targets], Images]
"""A function of clean images, their noisy copies and targets to one value per pixel and channel."""


@final
@dataclass(frozen=True)
class SmoothGrad(Method):
    """The largest absolute mean derivative over the channels; the mean is over noisy copies.

    The noise is Gaussian. Noisy copies may leave the image's range: if they were clipped, the noise
    of dark and bright pixels would have a mean other than 0.

    Attributes:
        samples: the number of noisy copies.
        noise: the standard deviation of the noise, as a fraction of each image's range.
        seed: the seed of the noise.
        batch: the number of noisy copies that the classifier receives at once.

    Raises:
        ConfigError: samples, noise or batch is out of range.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients",)
    samples: int = 25
    noise: float = 0.15
    seed: int = 0
    batch: int = 32

    def __post_init__(self) -> None:
        self._make_copies()

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        def compute_gradients(clean: Images, noisy: Images, targets: Targets) -> Images:
            return compute_input_gradients(classifier, noisy, targets)

        require_gradients(classifier, "smooth_grad")
        return self._make_copies().average(compute_gradients, images, targets).abs().amax(dim=1)

    def _make_copies(self) -> NoisyCopies:
        return NoisyCopies(self.samples, self.noise, self.seed, self.batch)


@dataclass(frozen=True)
class NoisyCopies:
    """Noisy copies of images, whose noise depends only on the seed and the device.

    Every image receives the same noise, so a batch gives the same maps as its single images.

    Attributes:
        samples: the number of noisy copies of each image.
        noise: the standard deviation of the noise, as a fraction of each image's range.
        seed: the seed of the noise.
        batch: the number of noisy copies at a time.

    Raises:
        ConfigError: a number is out of range.
    """

    samples: int
    noise: float
    seed: int
    batch: int

    def __post_init__(self) -> None:
        if min(self.samples, self.batch) < 1:
            raise ConfigError(
                "noisy copies: expected samples and batch of at least 1, "
                f"got {self.samples} and {self.batch}"
            )
        if not 0 < self.noise < inf:
            raise ConfigError(f"noisy copies: expected finite noise above 0, got {self.noise}")

    def average(self, function: PixelFunction, images: Images, targets: Targets) -> Images:
        """Return the mean of a function over all noisy copies of each image."""
        parts = (torch.split(whole, self.batch) for whole in (images.detach(), targets))
        return torch.cat(
            [self._average_batch(function, *pair) for pair in zip(*parts, strict=True)]
        )

    def _average_batch(self, function: PixelFunction, images: Images, targets: Targets) -> Images:
        ranges = images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True)
        total = torch.zeros_like(images)
        for draws in self._draw_noise(images):
            noisy = (images + self.noise * ranges * draws[:, None]).flatten(0, 1)
            clean = images.repeat(len(draws), 1, 1, 1)
            values = function(clean, noisy, targets.repeat(len(draws)))
            total += values.view(len(draws), *images.shape).sum(dim=0)
        return total / self.samples

    def _draw_noise(self, images: Images) -> Iterator[Images]:
        """Return noise of standard deviation 1, as many draws at a time as fit into a batch.

        It is drawn on the CPU, so that it is the same on every device.
        """
        generator = torch.Generator().manual_seed(self.seed)
        at_once = max(1, self.batch // len(images))
        for first in range(0, self.samples, at_once):
            count = min(at_once, self.samples - first)
            # one by one, so that a draw does not depend on the size of the batch
            draws = [torch.randn(images.shape[1:], generator=generator) for _ in range(count)]
            yield torch.stack(draws).to(images.device)


def compute_input_gradients(classifier: Classifier, images: Images, targets: Targets) -> Images:
    """Return the gradient of each target's logit by every pixel and channel (captum)."""
    from captum.attr import Saliency

    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        return (
            Saliency(classifier.compute_logits_unchecked)
            .attribute(inputs, target=targets, abs=False)
            .detach()
        )
