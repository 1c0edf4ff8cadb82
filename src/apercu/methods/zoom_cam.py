"""Zoom-CAM: gradient × feature of every layer, the maximum at each pixel (Shi et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import nn

from apercu.classifiers import Classifier
from apercu.maps import min_max_scale, resize_maps
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.methods.layers import find_last_map, get_layer, get_open_module, layer_gradients
from apercu.types import Images, Maps, Targets

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.ELU, nn.LeakyReLU, nn.Mish)


@final
@dataclass(frozen=True)
class ZoomCam(Method):
    """The maximum over layers of Σ gradient × feature, clipped at 0, stretched to [0, 1], enlarged.

    Attributes:
        layers: layers of the classifier's network. By default they are all activations up to the
            last feature map, and that map itself. Activations that are called as functions are
            not found; name the blocks that end in them.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients", "layers")
    layers: tuple[str, ...] | None = None

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "zoom_cam")
        size = (images.shape[2], images.shape[3])
        names = self.layers or _list_activations(classifier, images)
        layers = list({get_layer(classifier, name): None for name in names})
        last = layers[-1] if self.layers is None else None
        at_layers = layer_gradients(classifier, layers, images, targets)
        while last is not None and at_layers[-1].layer is not last:
            at_layers.pop()
        maximum = images.new_zeros(len(images), *size)
        for at_layer in at_layers:
            coarse = min_max_scale((at_layer.features * at_layer.gradients).sum(dim=1).clamp(min=0))
            maximum = torch.maximum(maximum, resize_maps(coarse, size))
        return maximum


def _list_activations(classifier: Classifier, images: Images) -> tuple[str, ...]:
    """Return the names of all activations, and at the end the name of the last feature map."""
    module, last = get_open_module(classifier), find_last_map(classifier, images)
    layers = module.named_modules()
    names = [name for name, layer in layers if isinstance(layer, _ACTIVATIONS) and name != last]
    return (*names, last)
