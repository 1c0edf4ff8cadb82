"""Excitation backprop: which neuron won, asked from the class down (Zhang et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.maps import resize_maps
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.methods.layers import (
    attach_hook,
    find_target_layers,
    get_layer,
    get_open_module,
    is_feature_map,
)
from apercu.methods.relevance import (
    AffineLayer,
    Operation,
    RelevanceRules,
    forward_with_rules,
    get_operation_name,
    redirect_relevance,
)
from apercu.types import Images, Maps, Targets

FINER_RATIO = 1.5
"""How much taller than the last map of features the one is that is shown."""


@final
@dataclass(frozen=True)
class ExcitationBackprop(Method):
    """The probability that each place of a layer won, given that the target did.

    A winner's probability is shared among the positive inputs that excited it, as
    input × positive weight; batch norms are folded into the layer before. Negative inputs excite
    nothing, in sums too, so that networks with linear bottlenecks can be asked.

    Args:
        layer: where to stop; without it, the last stage finer than the last map of features.
        contrastive: subtract what won given everything but the target, the last layer's weights
            negated; what is below 0 is cut.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients", "layers")
    layer: str | None = None
    contrastive: bool = False

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "excitation_backprop")
        maps = self._compute_winning_probabilities(classifier, images, targets, ExcitationRules())
        if self.contrastive:
            head = get_layer(classifier, find_target_layers(classifier, images).head)
            against = ExcitationRules(
                negated=head.weight if isinstance(head.weight, Tensor) else None
            )
            maps = (
                maps - self._compute_winning_probabilities(classifier, images, targets, against)
            ).clamp(min=0)
        return resize_maps(maps, (images.shape[2], images.shape[3]))

    @torch.enable_grad()
    def _compute_winning_probabilities(
        self, classifier: Classifier, images: Images, targets: Targets, rules: ExcitationRules
    ) -> Float[Tensor, "batch rows columns"]:
        """Probabilities at the stopping layer, summed over its channels."""
        stops = [get_layer(classifier, self.layer)] if self.layer else list_stages(classifier)
        passed: list[Tensor] = []

        def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor) and output.requires_grad and is_feature_map(output.shape):
                passed.append(output)

        inside = classifier.normalise(images.detach()).requires_grad_()
        with ExitStack() as hooks:
            for stop in stops:
                hooks.enter_context(attach_hook(stop, keep))
            logits = forward_with_rules(classifier, images, inside, rules)
        if not passed:
            raise ClassifierError(
                f"excitation_backprop: no map of features passed in {classifier.spec}; name "
                "another layer, or choose a method that needs none, such as occlusion"
            )
        shown = _select_finer_map(passed)
        own = logits.gather(1, targets[:, None])
        given = torch.where(own == 0, 0.0, 1 / torch.where(own == 0, 1.0, own)).detach()
        (slopes,) = torch.autograd.grad((own * given).sum(), shown)
        return (shown * slopes).sum(dim=1).detach()


@final
class ExcitationRules(RelevanceRules):
    """The marginal winning probability of every value.

    Args:
        negated: weights of the layer that asks for everything but the target.
    """

    def __init__(self, negated: Tensor | None = None) -> None:
        super().__init__()
        self._negated = negated

    def compute_surrogate(self, layer: AffineLayer, output: Tensor) -> Tensor:
        weight = -layer.weight if layer.weight is self._negated else layer.weight
        return layer.apply(layer.inputs.clamp(min=0), weight.clamp(min=0))

    def handle_other(self, func: Operation, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Sums of two maps share among their positive terms."""
        maps = [a for a in args[:2] if isinstance(a, Tensor) and a.requires_grad]
        if get_operation_name(func) != "add" or len(maps) < 2:
            return func(*args, **options)
        value = func(*(a.detach().clone() for a in maps), *args[2:], **options)
        return redirect_relevance(value, maps[0].clamp(min=0) + maps[1].clamp(min=0))


def list_stages(classifier: Classifier) -> list[nn.Module]:
    """The parts of a network that follow one another, those of its sequences included."""
    return list(_iterate_stages(get_open_module(classifier)))


def _iterate_stages(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential):
            yield from _iterate_stages(child)
        yield child


def _select_finer_map(maps: list[Tensor]) -> Tensor:
    """The last map that is clearly finer than the very last one, or the first of equals."""
    finer = [one for one in maps if one.shape[2] >= FINER_RATIO * maps[-1].shape[2]]
    return finer[-1] if finer else maps[0]
