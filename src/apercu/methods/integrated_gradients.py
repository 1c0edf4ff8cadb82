"""Integrated gradients: input × gradient along the path from black (Sundararajan et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Pixel × mean derivative on the straight path from black, summed over the channels (captum).

    The values of a map sum up to the logit of the image minus that of black, except for the error
    of the Gauss-Legendre integration.

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
        if min(self.steps, self.batch) < 1:
            raise ConfigError(
                "integrated_gradients: expected steps and batch of at least 1, "
                f"got {self.steps} and {self.batch}"
            )

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        from captum.attr import IntegratedGradients as Captum

        require_gradients(classifier, "integrated_gradients")
        captum = Captum(classifier)
        attributions = []
        with torch.enable_grad():
            parts = (torch.split(whole, self.batch) for whole in (images.detach(), targets))
            for inputs, classes in zip(*parts, strict=True):
                attribution = captum.attribute(
                    inputs,
                    target=classes,
                    n_steps=self.steps,
                    internal_batch_size=self.batch,
                )
                attributions.append(attribution.detach())
        return torch.cat(attributions).sum(dim=1)
