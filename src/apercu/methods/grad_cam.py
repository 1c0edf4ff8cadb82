"""Grad-CAM: the last feature map, weighted by how the class leans on it (Selvaraju et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from apercu.classifiers import Classifier
from apercu.maps import resize_maps
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.methods.layers import find_last_map, get_layer, layer_gradients
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class GradCam(Method):
    """Channels weighted by their mean gradient, summed, clipped at 0, enlarged.

    Attributes:
        layer: a layer of the classifier's network. By default it is the last feature map (or the
            last tokens), which is found by tracing one image.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients", "layers")
    layer: str | None = None

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "grad_cam")
        layer = get_layer(classifier, self.layer or find_last_map(classifier, images))
        at_layer = layer_gradients(classifier, [layer], images, targets)[-1]
        weights = at_layer.gradients.mean(dim=(2, 3), keepdim=True)
        coarse = (weights * at_layer.features).sum(dim=1).clamp(min=0)
        return resize_maps(coarse, (images.shape[2], images.shape[3]))
