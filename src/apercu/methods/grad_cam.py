"""Grad-CAM: the last feature map, weighted by how the class leans on it (Selvaraju et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from apercu.classifiers import Classifier
from apercu.maps import resize
from apercu.methods.base import Method, need_gradients
from apercu.methods.layers import anatomy, layer_named
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class GradCam(Method):
    """Channels weighted by their mean derivative, summed, cut at 0, enlarged (captum).

    `layer` names a layer of the classifier's network; without it the last convolutional map of
    features is found by watching one image pass.
    """

    layer: str | None = None

    def __call__(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        from captum.attr import LayerGradCam

        need_gradients(classifier, "grad_cam")
        layer = layer_named(classifier, self.layer or anatomy(classifier, images).features)
        with torch.enable_grad():
            inputs = images.detach().requires_grad_()
            coarse = LayerGradCam(classifier, layer).attribute(
                inputs, target=targets, relu_attributions=True
            )
        return resize(coarse.detach()[:, 0], (images.shape[2], images.shape[3]))
