"""Gradient: how much each pixel moves the class (Simonyan et al. 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from apercu.classifiers import Classifier
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class Gradient(Method):
    """The largest absolute derivative of the target's logit over the channels (captum)."""

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients",)

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        from captum.attr import Saliency

        require_gradients(classifier, "gradient")
        with torch.enable_grad():
            inputs = images.detach().requires_grad_()
            gradients = Saliency(classifier).attribute(inputs, target=targets, abs=True)
        return gradients.detach().amax(dim=1)
