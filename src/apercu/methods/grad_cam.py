"""Grad-CAM: the last feature map, weighted by how the class leans on it (Selvaraju et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from apercu.classifiers import Classifier
from apercu.maps import resize_maps
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.methods.layers import find_target_layers, get_layer, layer_gradients
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class GradCam(Method):
    """Channels weighted by their mean derivative, summed, cut at 0, enlarged.

    `layer` names a layer of the classifier's network; without it the last map of
    features (or tokens) is found by watching one image pass.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients", "layers")
    layer: str | None = None

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "grad_cam")
        layer = get_layer(classifier, self.layer or find_target_layers(classifier, images).features)
        passed = layer_gradients(classifier, [layer], images, targets)[-1]
        weights = passed.gradients.mean(dim=(2, 3), keepdim=True)
        coarse = (weights * passed.features).sum(dim=1).clamp(min=0)
        return resize_maps(coarse, (images.shape[2], images.shape[3]))
