"""Handing relevance back through an open network: its answers stay, its slopes follow rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.methods.layers import get_open_module
from apercu.types import Images, Logits

Operation: TypeAlias = Callable[..., Any]

ACTIVATIONS = {"celu", "clamp", "elu", "gelu", "hardswish", "hardtanh", "leaky_relu", "mish"}
ACTIVATIONS |= {"prelu", "relu", "relu6", "selu", "silu", "softplus", "tanh"}
GATES = {"hardsigmoid", "sigmoid"}
UNSUPPORTED = {"group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm"}
UNSUPPORTED |= {"log_softmax", "softmax", "scaled_dot_product_attention"}
UNSUPPORTED |= {"multi_head_attention_forward"}
PRODUCTS = {
    "addcdiv",
    "addcmul",
    "baddbmm",
    "bilinear",
    "bmm",
    "div",
    "einsum",
    "matmul",
    "mm",
    "mul",
}
"""Known where one factor is a constant, a gate or a weight."""
NONLINEAR = {"__rdiv", "__rpow", "cos", "exp", "log", "logsumexp", "norm", "normalize", "pow"}
NONLINEAR |= {"reciprocal", "rsqrt", "sin", "sqrt", "square"}
"""Neither linear nor an activation: value × slope would not add up."""


@dataclass(frozen=True)
class AffineLayer:
    """A convolution or linear layer at work; the batch norm that follows is folded in."""

    function: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    inputs: Tensor
    weight: Tensor
    bias: Tensor | None

    def apply(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What it would give for other inputs and weights."""
        return self.function(inputs, weight, bias)

    def fold_batch_norm(self, mean: Tensor, scale: Tensor, shift: Tensor) -> AffineLayer:
        """This layer and then `(output − mean) · scale + shift`."""
        weight = self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1))
        bias = -mean if self.bias is None else self.bias - mean
        return AffineLayer(self.function, self.inputs, weight, bias * scale + shift)


class RelevanceRules(TorchFunctionMode, ABC):
    """Watches a network's operations; value × slope becomes the relevance of every value.

    Convolutions and linear layers share by `flow`, activations pass relevance on, gates are taken
    for constants, and what is only moved, averaged or picked shares as its slopes do. No hook is
    set: leaving the `with` block ends it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer_count = 0
        self._previous: tuple[Tensor, AffineLayer] | None = None

    @abstractmethod
    def compute_surrogate(self, layer: AffineLayer, output: Tensor) -> Tensor:
        """The sum whose parts share the relevance of a layer's output."""

    def handle_other(self, func: Operation, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Any operation that is no layer, activation or gate."""
        return func(*args, **options)

    def __torch_function__(
        self,
        func: Operation,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name, options = get_operation_name(func), dict(kwargs or {})
        if name in UNSUPPORTED or (
            name in PRODUCTS | NONLINEAR and not _is_linear(name, args, options)
        ):
            raise ClassifierError(
                f"relevance: {name} has no rule here, only convolutional networks are known; "
                "choose a method that needs no layers, such as gradient or occlusion"
            )
        if name in ("conv2d", "linear"):
            return self._apply_affine(func, *args, **options)
        if name == "batch_norm":
            return self._apply_batch_norm(func, *args, **options)
        if name in ACTIVATIONS | GATES:
            value = func(args[0].detach().clone(), *args[1:], **options)
            return value if name in GATES else redirect_relevance(value, args[0])
        return self.handle_other(func, args, options)

    def _apply_affine(
        self,
        func: Operation,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **options: Any,
    ) -> Tensor:
        def function(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return func(inputs, weight, bias, *args, **options)

        return self._apply_rule(AffineLayer(function, input, weight, bias))

    def _apply_batch_norm(
        self,
        func: Operation,
        input: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if self._previous is None or self._previous[0] is not input:
            value = func(input.detach(), mean, variance, weight, bias, training, momentum, eps)
            return redirect_relevance(value, input)
        scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
        shift = torch.zeros_like(mean) if bias is None else bias
        return self._apply_rule(self._previous[1].fold_batch_norm(mean, scale, shift))

    def _apply_rule(self, layer: AffineLayer) -> Tensor:
        value = layer.apply(layer.inputs.detach(), layer.weight, layer.bias)
        output = redirect_relevance(value, self.compute_surrogate(layer, value))
        self._previous = output, layer
        self.layer_count += 1
        return output


def _is_linear(name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    """Whether relevance flows through none of the operands, or through one factor alone."""
    operands = [*args, *options.values()]
    flowing = sum(isinstance(one, Tensor) and one.requires_grad for one in operands)
    return flowing <= (name in PRODUCTS and name != "addcdiv")


def redirect_relevance(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value`, whose relevance is shared by the parts of the sum `flow`; none where that is 0."""
    known = surrogate.detach()
    share = torch.where(known == 0, 0.0, value / torch.where(known == 0, 1.0, known))
    return value.detach() + (surrogate - known) * share


def get_operation_name(func: Operation) -> str:
    """`relu` for torch.relu, Tensor.relu_ and functional.relu alike."""
    return str(getattr(func, "__name__", "")).rstrip("_")


def forward_with_rules(
    classifier: Classifier, images: Images, inside: Tensor, rules: RelevanceRules
) -> Logits:
    """The classifier's answers, with slopes that follow the rules.

    Args:
        classifier: an open convolutional network.
        images: in [0, 1].
        inside: the same, normalised, where slopes are wanted.
        rules: see there.

    Raises:
        ClassifierError: the network is not open, or does more than the rules can follow.
    """
    network = get_open_module(classifier)
    with torch.no_grad():
        expected = classifier(images)
    with torch.enable_grad(), rules:
        answers = network(inside)
    classifier.queries += len(inside)
    same = answers.shape == expected.shape and torch.allclose(answers, expected, 1e-2, 1e-2)
    if not (same and answers.requires_grad and rules.layer_count):
        raise ClassifierError(
            f"relevance: the layers of {classifier.spec} cannot be followed to its logits; choose "
            "a method that needs no layers, such as gradient or occlusion"
        )
    return answers
