"""Grad-CAM++: Grad-CAM that weighs every place of a channel (Chattopadhay et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.maps import resize
from apercu.methods.base import Method, need_gradients
from apercu.methods.layers import anatomy, layer_named
from apercu.methods.tokens import to_maps
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class GradCamPlusPlus(Method):
    """Channels weighted by their positive slopes, places that share a channel less; cut at 0.

    The weights are those of the score exp(logit), whose second and third derivatives by a feature
    are powers of its first where the network is piecewise linear. `layer` is as in Grad-CAM.
    """

    layer: str | None = None

    def __call__(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        need_gradients(classifier, "grad_cam_pp")
        layer = layer_named(classifier, self.layer or anatomy(classifier, images).features)
        passed = passes(classifier, [layer], images, targets)[-1]
        features, slopes = passed.features, passed.slopes
        sums = features.sum(dim=(2, 3), keepdim=True)
        shared = 2 + sums * slopes  # slope² / (2 slope² + sums slope³), where slope is not 0
        shares = slopes.clamp(min=0) / torch.where(shared == 0, 1, shared)
        weights = shares.sum(dim=(2, 3), keepdim=True)
        coarse = (weights * features).sum(dim=1).clamp(min=0)
        return resize(coarse, (images.shape[2], images.shape[3]))


@dataclass(frozen=True)
class Passed:
    """A layer, the map of features it gave, and the slopes of the target's logit by them."""

    layer: nn.Module
    features: Float[Tensor, "batch channels rows columns"]
    slopes: Float[Tensor, "batch channels rows columns"]


def passes(
    classifier: Classifier, layers: Sequence[nn.Module], images: Images, targets: Targets
) -> list[Passed]:
    """What one pass gave at each of these layers, in the order of their completion.

    A layer that is called twice is there twice; outputs without places are left out.

    Raises:
        ClassifierError: no layer gave a map of features that the target's logit depends on.
    """
    size = (images.shape[2], images.shape[3])
    kept: list[tuple[nn.Module, Tensor]] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.requires_grad:
            return None
        if to_maps(output, size) is None:
            return None
        kept.append((layer, output))
        return output.clone()  # what comes next may write into it

    with ExitStack() as hooks, torch.enable_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(keep).remove)
        logits = classifier(images.detach().requires_grad_())
        score = logits.gather(1, targets[:, None]).sum()
        outputs = [output for _, output in kept]
        slopes = torch.autograd.grad(score, outputs, allow_unused=True) if outputs else ()
    found = []
    for (layer, output), slope in zip(kept, slopes, strict=True):
        if slope is None:
            continue
        features, weights = to_maps(output.detach(), size), to_maps(slope, size)
        if features is not None and weights is not None:
            found.append(Passed(layer, features, weights))
    if not found:
        raise ClassifierError(
            f"layer: {classifier.spec} gives no map of features there that its scores depend on; "
            "name an earlier layer"
        )
    return found
