"""LRP: the logit handed back layer by layer, shared by contribution (Bach et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.methods.relevance import (
    AffineLayer,
    Operation,
    RelevanceRules,
    forward_with_rules,
    get_operation_name,
)
from apercu.types import Images, Maps, Targets

MAX_BATCH = 16
"""Images whose activations are held."""


@final
@dataclass(frozen=True)
class Lrp(Method):
    """The composite of ε, γ and box (Montavon et al. 2019), summed over the channels.

    Linear layers share by ε. Convolutions share by γ, in favour of what agrees with their output.
    The first one shares by box, within black and white. Batch norms are folded into the layer
    before; sums share by size.

    Args:
        gamma: how much more weight agreement has.
        epsilon: added to the size of an output before its relevance is divided by it.

    Raises:
        ConfigError: a setting is out of range.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients", "layers")
    gamma: float = 0.25
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if not (self.gamma >= 0 and self.epsilon >= 0):
            raise ConfigError(
                "lrp: expected gamma and epsilon of at least 0, "
                f"got gamma {self.gamma} and epsilon {self.epsilon}"
            )

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "lrp")
        parts = (torch.split(values, MAX_BATCH) for values in (images, targets))
        return torch.cat([self._propagate(classifier, *some) for some in zip(*parts, strict=True)])

    @torch.enable_grad()
    def _propagate(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        inside = classifier.normalise(images.detach())
        low = torch.minimum(inside, classifier.normalise(torch.zeros_like(images)))
        high = torch.maximum(inside, classifier.normalise(torch.ones_like(images)))
        box = [bound.requires_grad_() for bound in (inside, low, high)]
        logits = forward_with_rules(classifier, images, inside, CompositeRules(self, box))
        own = logits.gather(1, targets[:, None]).sum()
        slopes = torch.autograd.grad(own, box, allow_unused=True)
        parts = [end * slope for end, slope in zip(box, slopes, strict=True) if slope is not None]
        return torch.stack(parts).sum(dim=(0, 2)).detach()


@final
class CompositeRules(RelevanceRules):
    """Which rule each layer follows.

    Args:
        settings: of the rules.
        box: the network's input, and its lowest and highest possible values.
    """

    def __init__(self, settings: Lrp, box: Sequence[Tensor]) -> None:
        super().__init__()
        self._settings = settings
        self._box = list(box)

    def handle_other(self, func: Operation, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Where the network pads its input itself, the bounds are padded with it."""
        if get_operation_name(func) == "pad" and args[0] is self._box[0]:
            self._box = [func(bound, *args[1:], **options) for bound in self._box]
            return self._box[0]
        return func(*args, **options)

    def compute_surrogate(self, layer: AffineLayer, output: Tensor) -> Tensor:
        if layer.weight.ndim == 2:
            whole = layer.apply(layer.inputs, layer.weight, layer.bias)
            return whole + self._settings.epsilon * torch.where(output < 0, -1.0, 1.0)
        if layer.inputs is self._box[0]:
            return _compute_box_surrogate(layer, self._box)
        return _compute_gamma_surrogate(layer, output, self._settings.gamma)


def _compute_box_surrogate(layer: AffineLayer, box: Sequence[Tensor]) -> Tensor:
    """Σ (x − low) w⁺ + (x − high) w⁻, no part of which is negative."""
    inside, low, high = box
    raised, lowered = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    return layer.apply(inside, layer.weight) - layer.apply(low, raised) - layer.apply(high, lowered)


def _compute_gamma_surrogate(layer: AffineLayer, output: Tensor, gamma: float) -> Tensor:
    """z + γ · (the contributions to z of its own sign)."""
    raised, lowered = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    bias = None if layer.bias is None else layer.bias.clamp(min=0)
    whole = layer.apply(layer.inputs, layer.weight, layer.bias)
    up = layer.apply(layer.inputs.clamp(min=0), raised, bias)
    up = up + layer.apply(layer.inputs.clamp(max=0), lowered)
    return whole + gamma * torch.where(output > 0, up, whole - up)
