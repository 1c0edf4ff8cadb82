"""Grad-CAM: the last feature map, weighted by how the class leans on it (Selvaraju et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from apercu.classifiers import Classifier
from apercu.maps import resize
from apercu.methods.base import Method, Need, need_gradients
from apercu.methods.layers import anatomy, layer_named, passes
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class GradCam(Method):
    """Channels weighted by their mean derivative, summed, cut at 0, enlarged.

    `layer` names a layer of the classifier's network; without it the last map of
    features (or tokens) is found by watching one image pass.
    """

    needs: ClassVar[tuple[Need, ...]] = ("gradients", "layers")
    layer: str | None = None

    def __call__(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        need_gradients(classifier, "grad_cam")
        layer = layer_named(classifier, self.layer or anatomy(classifier, images).features)
        passed = passes(classifier, [layer], images, targets)[-1]
        weights = passed.slopes.mean(dim=(2, 3), keepdim=True)
        coarse = (weights * passed.features).sum(dim=1).clamp(min=0)
        return resize(coarse, (images.shape[2], images.shape[3]))
