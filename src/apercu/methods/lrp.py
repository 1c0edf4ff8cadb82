"""LRP: the logit is propagated back layer by layer, by contribution (Bach et al. 2015)."""

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
"""The number of images whose activations are stored at once."""


@final
@dataclass(frozen=True)
class Lrp(Method):
    """The composite of ε, γ and box (Montavon et al. 2019), summed over the channels.

    Linear layers follow the ε rule. Convolutions follow the γ rule, in favour of contributions with
    the sign of the output. The first convolution follows the box rule, between black and white.
    Batch norms are folded into the layer before. Sums divide relevance in proportion to their
    terms.

    Attributes:
        gamma: the additional weight of contributions with the sign of the output.
        epsilon: a number added to the size of an output before its relevance is divided by it.

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
        return torch.cat([self._propagate(classifier, *part) for part in zip(*parts, strict=True)])

    @torch.enable_grad()
    def _propagate(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        inside = classifier.normalise(images.detach())
        bare = classifier.without_filter()
        low = torch.minimum(inside, bare.normalise(torch.zeros_like(images)))
        high = torch.maximum(inside, bare.normalise(torch.ones_like(images)))
        box = [bound.requires_grad_() for bound in (inside, low, high)]
        rules = CompositeRules(self, [bound.clone() for bound in box])
        logits = forward_with_rules(classifier, images, rules.inside, rules)
        logit = logits.gather(1, targets[:, None]).sum()
        gradients = torch.autograd.grad(logit, box, allow_unused=True)
        pairs = zip(box, gradients, strict=True)
        parts = [bound * gradient for bound, gradient in pairs if gradient is not None]
        return torch.stack(parts).sum(dim=(0, 2)).detach()


@final
class CompositeRules(RelevanceRules):
    """The ε, γ and box rules, each for its layers.

    Args:
        settings: the settings of the rules.
        box: the network's input, and the lowest and highest possible input.
    """

    def __init__(self, settings: Lrp, box: Sequence[Tensor]) -> None:
        super().__init__()
        self._settings = settings
        self._keep_box(list(box))

    @property
    def inside(self) -> Tensor:
        """The network's input, into which the network may write."""
        return self._box[0]

    def handle_other(self, func: Operation, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Pad the bounds too, where the network pads its input itself."""
        if get_operation_name(func) == "pad" and self._has_bounds(args[0]):
            self._keep_box([func(bound, *args[1:], **options) for bound in self._box])
            return self.inside
        return func(*args, **options)

    def compute_surrogate(self, layer: AffineLayer, output: Tensor) -> Tensor:
        if layer.weight.ndim == 2:
            total = layer.apply(layer.inputs, layer.weight, layer.bias)
            return total + self._settings.epsilon * torch.where(output < 0, -1.0, 1.0)
        if self._has_bounds(layer.inputs):
            return _compute_box_surrogate(layer, self._box)
        return _compute_gamma_surrogate(layer, output, self._settings.gamma)

    def _keep_box(self, box: list[Tensor]) -> None:
        self._box, self._version = box, box[0]._version

    def _has_bounds(self, values: object) -> bool:
        """Whether these are the input itself, and the network has not written into it."""
        return values is self.inside and self.inside._version == self._version


def _compute_box_surrogate(layer: AffineLayer, box: Sequence[Tensor]) -> Tensor:
    """Return Σ (x − low) w⁺ + (x − high) w⁻, whose terms are never negative."""
    inside, low, high = box
    positive, negative = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    return (
        layer.apply(inside, layer.weight) - layer.apply(low, positive) - layer.apply(high, negative)
    )


def _compute_gamma_surrogate(layer: AffineLayer, output: Tensor, gamma: float) -> Tensor:
    """Return z + γ · (the contributions to z with its own sign)."""
    positive, negative = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    bias = None if layer.bias is None else layer.bias.clamp(min=0)
    total = layer.apply(layer.inputs, layer.weight, layer.bias)
    raising = layer.apply(layer.inputs.clamp(min=0), positive, bias)
    raising = raising + layer.apply(layer.inputs.clamp(max=0), negative)
    return total + gamma * torch.where(output > 0, raising, total - raising)
