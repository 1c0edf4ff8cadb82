"""CAM: the last feature map, weighted by the final layer (Zhou et al. 2016)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.classifiers.outputs import Output
from apercu.errors import ClassifierError
from apercu.maps import resize_maps
from apercu.methods.base import Method, Requirement
from apercu.methods.hooks import attach_hook
from apercu.methods.layers import (
    find_target_layers,
    get_layer,
    get_open_module,
    gives_logits,
    is_feature_map,
)
from apercu.methods.tokens import find_feature_layouts
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class Cam(Method):
    """Σ weight × feature, for classifiers whose logits are linear in the last feature map.

    Two architectures allow it: a mean over all positions and then a linear layer, or a 1 × 1
    convolution to the classes and then a mean (SqueezeNet).
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("layers",)

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        layers = find_target_layers(classifier, images)
        if layers.head is None:
            raise _ending_error(classifier, images)
        head = get_layer(classifier, layers.head)
        outputs: dict[str, Tensor] = {}

        def keep_features(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs["features"] = output.clone()

        def keep_head(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs["pooled"], outputs["scores"] = inputs[0].clone(), output.clone()

        with (
            torch.no_grad(),
            attach_hook(get_layer(classifier, layers.features), keep_features),
            attach_hook(head, keep_head),
        ):
            logits = classifier(images)
            weights = _read_class_weights(head, classifier.output)
        feature_map = find_feature_layouts(classifier, get_open_module(classifier)).read(
            layers.features, outputs["features"]
        )
        features = _find_linear_features(feature_map, outputs["pooled"])
        if (
            weights is None
            or features is None
            or weights.shape[1] != features.shape[1]
            or not gives_logits(outputs["scores"], logits, classifier)
        ):
            raise _ending_error(classifier, images)
        maps = torch.einsum("bc,bchw->bhw", weights[targets], features)
        return resize_maps(maps, (images.shape[2], images.shape[3]))


def _ending_error(classifier: Classifier, images: Images) -> ClassifierError:
    """Return the error of a classifier without a linear ending, or of a map without positions."""
    if _shrinks_to_one_position(classifier, images):
        height, width = images.shape[2:]
        return ClassifierError(
            f"cam needs a last feature map of several positions; that of {classifier.spec} is "
            f"1 × 1 for images of {height} × {width} pixels: choose grad_cam, which takes an "
            "earlier one"
        )
    return ClassifierError(
        "cam needs a classifier that ends in a mean over all positions and one linear "
        f"layer; {classifier.spec} ends otherwise: choose grad_cam"
    )


def _shrinks_to_one_position(classifier: Classifier, images: Images) -> bool:
    """Return whether a convolution or a maximum of windows, no mean, leaves one position."""
    shrinks: list[bool] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        is_one = output.ndim == 4 and output.shape[2:].numel() == 1
        shrinks.append(is_one and is_feature_map(inputs[0].shape))

    with torch.no_grad(), ExitStack() as hooks:
        for layer in get_open_module(classifier).modules():
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                hooks.enter_context(attach_hook(layer, keep))
        classifier(images[:1])
    return any(shrinks)


def _read_class_weights(head: nn.Module, output: Output) -> Tensor | None:
    """Return the final layer as `classes × channels`; None if it is not linear."""
    weight = head.weight
    if not isinstance(weight, Tensor) or weight.shape[0] != output.columns:
        return None
    if weight.shape[2:].numel() != 1:
        return None
    rows = weight.detach().flatten(1) / (output.temperature or 1.0)
    return torch.cat((-rows / 2, rows / 2)) if output.takes_one_number else rows


def _find_linear_features(feature_map: Tensor | None, pooled: Tensor) -> Tensor | None:
    """Return the feature map whose mean, before or after weighting, gives the logits, if any."""
    if is_feature_map(pooled.shape):
        return pooled
    if feature_map is None:
        return None
    mean, pooled = feature_map.mean(dim=(2, 3)), pooled.flatten(1)
    is_mean = mean.shape == pooled.shape and torch.allclose(mean, pooled, rtol=1e-3, atol=1e-4)
    return feature_map if is_mean else None
