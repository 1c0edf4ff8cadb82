"""Excitation backprop: winning probabilities, from the class down (Zhang et al. 2016)."""

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
from apercu.methods.hooks import attach_hook
from apercu.methods.layers import (
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

AVERAGES = frozenset(
    ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d",
     "avg_pool2d", "avg_pool3d", "interpolate", "mean", "nanmean", "nansum", "sum", "upsample")
)  # fmt: skip
"""Sums of values within a map, of which the negative ones excite nothing."""
WITHOUT_PROBABILITIES = frozenset(("fft_fft2", "fft_rfft2", "std", "std_mean"))
"""Operations that are linear or nearly, but with terms of both signs."""
FINER_RATIO = 1.5
"""The map that is shown is at least this much higher than the last feature map."""


@final
@dataclass(frozen=True)
class ExcitationBackprop(Method):
    """The probability that each position of a layer wins, given that the target wins.

    The probability of a winner is divided among the positive inputs that excite it, in proportion
    to input × positive weight. Batch norms are folded into the layer before. Negative inputs excite
    nothing, also in sums, so that networks with linear bottlenecks work.

    Attributes:
        layer: the layer whose positions are shown. By default it is the last stage that is finer
            than the last feature map.
        contrastive: whether the probabilities given all other classes are subtracted, with the last
            layer's weights negated. Negative differences become 0.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients", "layers")
    layer: str | None = None
    contrastive: bool = False

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "excitation_backprop")
        maps = self._compute_winning_probabilities(classifier, images, targets, ExcitationRules())
        is_absent = (targets == 0) & classifier.output.takes_one_number
        if self.contrastive or is_absent.any():
            against = ExcitationRules(negated=self._find_last_weights(classifier, images))
            others = self._compute_winning_probabilities(classifier, images, targets, against)
            is_absence = is_absent[:, None, None]  # not the class: with negated weights
            maps, others = others.where(is_absence, maps), maps.where(is_absence, others)
            if self.contrastive:
                maps = (maps - others).clamp(min=0)
        return resize_maps(maps, (images.shape[2], images.shape[3]))

    def _find_last_weights(self, classifier: Classifier, images: Images) -> Tensor | None:
        """Return the weights of the last layer, whose negation stands for all other classes.

        Raises:
            ClassifierError: the logits are not those of one last layer.
        """
        layers = find_target_layers(classifier, images)
        if layers.head is not None and (
            layers.gives_logits
            or (not self.contrastive and _negates_logits(classifier, images[:1], layers.head))
        ):
            weights = get_layer(classifier, layers.head).weight
            return weights if isinstance(weights, Tensor) else None
        what = "contrastive" if self.contrastive else f"{classifier.classes[0]!r}"
        advice = "leave contrastive out" if self.contrastive else "choose grad_cam"
        raise ClassifierError(
            f"excitation_backprop: {what} needs a classifier whose logits are those of "
            f"one last layer; {classifier.spec} ends otherwise: {advice}"
        )

    @torch.enable_grad()
    def _compute_winning_probabilities(
        self, classifier: Classifier, images: Images, targets: Targets, rules: ExcitationRules
    ) -> Float[Tensor, "batch rows columns"]:
        """Return the probabilities at the chosen layer, summed over its channels."""
        stops = [get_layer(classifier, self.layer)] if self.layer else list_stages(classifier)
        outputs: list[Tensor] = []

        def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor) and output.requires_grad and is_feature_map(output.shape):
                outputs.append(output)

        inside = classifier.normalise(images.detach()).requires_grad_()
        with ExitStack() as hooks:
            for stop in stops:
                hooks.enter_context(attach_hook(stop, keep))
            logits = forward_with_rules(classifier, images, inside.clone(), rules)
        if not outputs:
            raise ClassifierError(
                f"excitation_backprop: the layer gives no feature map in {classifier.spec}; name "
                "another layer, or choose a method that needs none, such as occlusion"
            )
        feature_map = _select_finer_map(outputs)
        logit = logits.gather(1, targets[:, None])
        scale = torch.where(logit == 0, 0.0, 1 / torch.where(logit == 0, 1.0, logit)).detach()
        (gradients,) = torch.autograd.grad((logit * scale).sum(), feature_map)
        return (feature_map * gradients).sum(dim=1).detach()


@torch.no_grad()
def _negates_logits(classifier: Classifier, images: Images, name: str) -> bool:
    """Return whether logits change their sign with a layer's output, as where they are a multiple.

    Args:
        classifier: an open classifier.
        images: images in [0, 1], `batch × channels × height × width`.
        name: the layer.

    Returns:
        Whether the two agree, within the rounding of the network.
    """
    logits = classifier(images)
    with attach_hook(get_layer(classifier, name), lambda _layer, _inputs, output: -output):
        negated = classifier(images)
    return bool((negated + logits).abs().max() <= 1e-4 * logits.abs().max())


@final
class ExcitationRules(RelevanceRules):
    """Rules that give the marginal winning probability of every value.

    Args:
        negated: the weights of the last layer, if all classes but the target should win.
    """

    def __init__(self, negated: Tensor | None = None) -> None:
        super().__init__()
        self._negated = negated

    def compute_surrogate(self, layer: AffineLayer, output: Tensor) -> Tensor:
        weight = -layer.weight if layer.weight is self._negated else layer.weight
        return layer.apply(layer.inputs.clamp(min=0), weight.clamp(min=0))

    def handle_other(self, func: Operation, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Divide the relevance of sums, differences and means among their positive terms."""
        name = get_operation_name(func)
        flows = bool(args) and isinstance(args[0], Tensor) and args[0].requires_grad
        if name in WITHOUT_PROBABILITIES and flows:
            raise ClassifierError(
                f"excitation_backprop: {name} has no rule here; choose a method that needs no "
                "layers, such as occlusion"
            )
        if name in AVERAGES and flows:
            value = func(args[0].detach(), *args[1:], **options)
            return redirect_relevance(value, func(args[0].clamp(min=0), *args[1:], **options))
        factors = _find_factors(name, options.get("alpha", 1))
        terms = (*args, options["other"]) if "other" in options else args
        maps = [
            (term, factor)
            for term, factor in zip(terms, factors, strict=False)
            if isinstance(term, Tensor) and term.requires_grad
        ]
        if len(maps) < (2 if name == "add" else 1):
            return func(*args, **options)
        copies = (arg.detach().clone() if isinstance(arg, Tensor) else arg for arg in args)
        positive = [(factor * term).clamp(min=0) for term, factor in maps]
        return redirect_relevance(func(*copies, **options), sum(positive[1:], positive[0]))


def _find_factors(name: str, alpha: float | int) -> tuple[float | int, ...]:
    """Return the factors of the two terms of a sum or a difference; none for other operations."""
    factors = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1), "__rsub": (-1, 1)}
    return factors.get(name, ())


def list_stages(classifier: Classifier) -> list[nn.Module]:
    """Return the parts of a network in their order, with the parts of its sequences."""
    return list(_iterate_stages(get_open_module(classifier)))


def _iterate_stages(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential):
            yield from _iterate_stages(child)
        yield child


def _select_finer_map(maps: list[Tensor]) -> Tensor:
    """Return the last map that is clearly finer than the last one, or else the first map."""
    limit = FINER_RATIO * maps[-1].shape[2]
    finer = [feature_map for feature_map in maps if feature_map.shape[2] >= limit]
    return finer[-1] if finer else maps[0]
