"""Grad-CAM++: Grad-CAM that weighs every place of a channel (Chattopadhay et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from apercu.classifiers import Classifier
from apercu.maps import resize_maps
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.methods.layers import find_target_layers, get_layer, layer_gradients
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class GradCamPlusPlus(Method):
    """Channels weighted by their positive slopes, places that share a channel less; cut at 0.

    The weights are those of the score exp(logit), whose second and third derivatives by a feature
    are powers of its first where the network is piecewise linear. `layer` is as in Grad-CAM.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients", "layers")
    layer: str | None = None

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "grad_cam_pp")
        layer = get_layer(classifier, self.layer or find_target_layers(classifier, images).features)
        passed = layer_gradients(classifier, [layer], images, targets)[-1]
        features, slopes = passed.features, passed.gradients
        sums = features.sum(dim=(2, 3), keepdim=True)
        shared = 2 + sums * slopes  # slope² / (2 slope² + sums slope³), where slope is not 0
        shares = slopes.clamp(min=0) / torch.where(shared == 0, 1, shared)
        weights = shares.sum(dim=(2, 3), keepdim=True)
        coarse = (weights * features).sum(dim=1).clamp(min=0)
        return resize_maps(coarse, (images.shape[2], images.shape[3]))
