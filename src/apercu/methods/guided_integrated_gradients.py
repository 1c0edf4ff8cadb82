"""Integrated gradients with guided non-linearity (Kwon et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from apercu.classifiers import Classifier
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.methods.guided_backprop import RELUS, GuidedGradients
from apercu.methods.integrated_gradients import IntegratedGradients
from apercu.types import Images, Maps, Targets

_POOLS = frozenset(
    {
        *("max_pool2d", "max_pool2d_with_indices"),
        *("adaptive_max_pool2d", "adaptive_max_pool2d_with_indices"),
    }
)


@final
@dataclass(frozen=True)
class GuidedIntegratedGradients(Method):
    """Integrated gradients whose derivatives pass ReLU and max pooling only where positive.

    The path is that of `IntegratedGradients`, from black; the sum of a map has no meaning here.

    Attributes:
        steps: the number of points on the path.
        batch: the number of images that the classifier receives at once.

    Raises:
        ConfigError: steps or batch is below 1.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients",)
    steps: int = 50
    batch: int = 32

    def __post_init__(self) -> None:
        self._make_unguided()

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "guided_integrated_gradients")
        with GuidedGradients(RELUS | _POOLS) as guided:
            maps = self._make_unguided().compute_maps(classifier, images, targets)
        guided.check_applied(classifier, "guided_integrated_gradients")
        return maps

    def _make_unguided(self) -> IntegratedGradients:
        return IntegratedGradients(self.steps, self.batch)
