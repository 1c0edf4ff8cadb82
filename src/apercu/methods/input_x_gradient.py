"""Input × gradient: each pixel's part of a linearised logit (Shrikumar et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from apercu.classifiers import Classifier
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class InputXGradient(Method):
    """Pixel × derivative of the target's logit, summed over the channels (captum).

    Pixels are those of the image in [0, 1], so that black pixels receive no evidence.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients",)

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        from captum.attr import InputXGradient as Captum

        require_gradients(classifier, "input_x_gradient")
        with torch.enable_grad():
            inputs = images.detach().requires_grad_()
            attributions = Captum(classifier).attribute(inputs, target=targets)
        return attributions.detach().sum(dim=1)
