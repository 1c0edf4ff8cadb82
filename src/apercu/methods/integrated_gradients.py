"""Integrated gradients: input × gradient along the way from black (Sundararajan et al. 2017)."""

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
    """Pixel × mean derivative on the straight way from black, summed over the channels (captum).

    The values of a map sum up to the logit of the image less that of black, but for the error of
    Gauss-Legendre integration with so many `steps`; `batch` steps are answered at a time.

    Raises:
        ConfigError: steps or batch below 1.
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
        shares = []
        with torch.enable_grad():
            parts = (torch.split(whole, self.batch) for whole in (images.detach(), targets))
            for inputs, classes in zip(*parts, strict=True):
                found = captum.attribute(
                    inputs,
                    target=classes,
                    n_steps=self.steps,
                    internal_batch_size=self.batch,
                )
                shares.append(found.detach())
        return torch.cat(shares).sum(dim=1)
