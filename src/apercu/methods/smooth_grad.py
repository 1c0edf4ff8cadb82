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
"""Clean images, their noisy copies, targets → one value per pixel and channel."""


@final
@dataclass(frozen=True)
class SmoothGrad(Method):
    """The largest absolute mean derivative over the channels, the mean taken over noisy copies.

    Noise is Gaussian, its standard deviation a share of each image's range, which copies may leave:
    cut off at its ends, dark and bright pixels would have noise of a mean other than 0. `batch`
    copies are answered at a time.

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
        def ask(clean: Images, noisy: Images, targets: Targets) -> Images:
            return compute_input_gradients(classifier, noisy, targets)

        require_gradients(classifier, "smooth_grad")
        return self._make_copies().average(ask, images, targets).abs().amax(dim=1)

    def _make_copies(self) -> NoisyCopies:
        return NoisyCopies(self.samples, self.noise, self.seed, self.batch)


@dataclass(frozen=True)
class NoisyCopies:
    """Noisy copies of images; the noise depends on the seed (and device) alone.

    Every image receives the same noise, so it does not matter which others come with it.

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

    def average(self, ask: PixelFunction, images: Images, targets: Targets) -> Images:
        """The mean of an answer over all copies of each image, asked in batches."""
        parts = (torch.split(whole, self.batch) for whole in (images.detach(), targets))
        return torch.cat([self._average_batch(ask, *pair) for pair in zip(*parts, strict=True)])

    def _average_batch(self, ask: PixelFunction, images: Images, targets: Targets) -> Images:
        reach = images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True)
        total = torch.zeros_like(images)
        for draws in self._draw_noise(images):
            noisy = (images + self.noise * reach * draws[:, None]).flatten(0, 1)
            clean = images.repeat(len(draws), 1, 1, 1)
            answers = ask(clean, noisy, targets.repeat(len(draws)))
            total += answers.view(len(draws), *images.shape).sum(dim=0)
        return total / self.samples

    def _draw_noise(self, images: Images) -> Iterator[Images]:
        """Noise of one standard deviation, as many draws at a time as the batch has room for."""
        generator = torch.Generator(images.device).manual_seed(self.seed)
        together = max(1, self.batch // len(images))
        for first in range(0, self.samples, together):
            count = min(together, self.samples - first)
            # one by one: a draw must not depend on how many are made at a time
            yield torch.stack(
                [
                    torch.randn(images.shape[1:], generator=generator, device=images.device)
                    for _ in range(count)
                ]
            )


def compute_input_gradients(classifier: Classifier, images: Images, targets: Targets) -> Images:
    """The derivative of each target's logit by every pixel and channel (captum)."""
    from captum.attr import Saliency

    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        return (
            Saliency(classifier.compute_logits_unchecked)
            .attribute(inputs, target=targets, abs=False)
            .detach()
        )
