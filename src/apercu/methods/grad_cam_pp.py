"""Grad-CAM++: Grad-CAM that weights every position of a channel (Chattopadhay et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from apercu.classifiers import Classifier
from apercu.maps import resize_maps
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.methods.layers import find_last_map, get_layer, layer_gradients
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class GradCamPlusPlus(Method):
    """Channels weighted by their positive gradients, summed, clipped at 0, enlarged.

    Where several positions of a channel are active, each of them counts less. The weights are those
    of the score exp(logit), whose second and third derivatives by a feature are powers of the first
    where the network is piecewise linear.

    Attributes:
        layer: a layer of the classifier's network, as in `GradCam`.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients", "layers")
    layer: str | None = None

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "grad_cam_pp")
        layer = get_layer(classifier, self.layer or find_last_map(classifier, images))
        at_layer = layer_gradients(classifier, [layer], images, targets)[-1]
        features, gradients = at_layer.features, at_layer.gradients
        sums = features.sum(dim=(2, 3), keepdim=True)
        # the paper's factor is g² / (2 g² + Σf g³), which is 1 / (2 + Σf g) where g is not 0
        divisor = 2 + sums * gradients
        weighted = gradients.clamp(min=0) / torch.where(divisor == 0, 1, divisor)
        weights = weighted.sum(dim=(2, 3), keepdim=True)
        coarse = (weights * features).sum(dim=1).clamp(min=0)
        return resize_maps(coarse, (images.shape[2], images.shape[3]))
