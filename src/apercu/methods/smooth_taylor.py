"""SmoothTaylor: a first-order Taylor term, averaged over roots near the image (Goh et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from apercu.classifiers import Classifier
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.methods.smooth_grad import NoisyCopies, compute_input_gradients
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class SmoothTaylor(Method):
    """Mean of (pixel − root) × derivative at the root, summed over the channels.

    Roots are noisy copies, as in SmoothGrad. The default noise is the paper's σ = 0.5 after
    ImageNet's normalisation.

    Attributes:
        samples: the number of roots.
        noise: the standard deviation of the noise, as a fraction of each image's range.
        seed: the seed of the noise.
        batch: the number of noisy copies that the classifier receives at once.

    Raises:
        ConfigError: samples, noise or batch is out of range.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients",)
    slow: ClassVar[bool] = True
    samples: int = 150
    noise: float = 0.11
    seed: int = 0
    batch: int = 32

    def __post_init__(self) -> None:
        self._make_roots()

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        def compute_terms(clean: Images, roots: Images, targets: Targets) -> Images:
            return (clean - roots) * compute_input_gradients(classifier, roots, targets)

        require_gradients(classifier, "smooth_taylor")
        return self._make_roots().average(compute_terms, images, targets).sum(dim=1)

    def _make_roots(self) -> NoisyCopies:
        return NoisyCopies(self.samples, self.noise, self.seed, self.batch)
