"""Relevance propagation: the logits of a network stay the same, its gradients follow rules."""

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

ACTIVATIONS = frozenset(
    ("arcsin", "arcsinh", "arctan", "arctanh", "asin", "asinh", "atan", "atanh", "celu", "clamp",
     "clamp_max", "clamp_min", "clip", "elu", "erf", "expm1", "gelu", "hardshrink", "hardswish",
     "hardtanh", "leaky_relu", "log1p", "log_sigmoid", "logsigmoid", "mish", "prelu", "relu",
     "relu6", "rrelu", "selu", "silu", "sinh", "softplus", "softshrink", "softsign", "tanh",
     "tanhshrink", "threshold")
)  # fmt: skip
"""Operations that pass relevance on as it is."""
LIMITS = frozenset(("fmax", "fmin", "max", "maximum", "min", "minimum"))
"""Choices between two values; with a constant they are activations."""
GATES = frozenset(("hardsigmoid", "sigmoid"))
"""Operations whose outputs count as constants."""
UNSUPPORTED = frozenset(
    ("group_norm", "instance_norm", "layer_norm", "local_response_norm", "log_softmax",
     "multi_head_attention_forward", "rms_norm", "scaled_dot_product_attention", "softmax",
     "softmin")
)  # fmt: skip
"""Operations without a rule."""
PRODUCTS = frozenset(
    ("addbmm", "addcdiv", "addcmul", "addmm", "addmv", "baddbmm", "bilinear", "bmm", "div",
     "einsum", "inner", "kron", "matmul", "mm", "mul", "mv", "tensordot")
)  # fmt: skip
"""Products are supported where one factor is a constant, a gate or a weight."""
NONLINEAR = frozenset(
    ("__rdiv", "__rpow", "acos", "arccos", "arctan2", "atan2", "cdist", "cos", "cosh",
     "cosine_similarity", "cumprod", "dist", "erfc", "exp", "exp2", "float_power", "glu", "hypot",
     "log", "log10", "log2", "logaddexp", "logaddexp2", "logcumsumexp", "logit", "logsumexp",
     "norm", "normalize", "pairwise_distance", "pdist", "pow", "prod", "reciprocal", "rsqrt", "sin",
     "sinc", "sqrt", "square", "tan", "var", "var_mean", "xlogy")
)  # fmt: skip
"""Operations that are neither linear nor activations: value × gradient would not add up."""
OTHER_NAMES = {"divide": "div", "multiply": "mul", "subtract": "sub", "true_divide": "div"}
"""Further names of operations in PyTorch, and the one that is used here."""


@dataclass(frozen=True)
class AffineLayer:
    """One call of a convolution or linear layer; a batch norm that follows is folded in."""

    function: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    inputs: Tensor
    weight: Tensor
    bias: Tensor | None

    def apply(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the output for other inputs and weights."""
        return self.function(inputs, weight, bias)

    def fold_batch_norm(self, mean: Tensor, scale: Tensor, shift: Tensor) -> AffineLayer:
        """Return this layer followed by `(output − mean) · scale + shift`."""
        weight = self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1))
        bias = -mean if self.bias is None else self.bias - mean
        return AffineLayer(self.function, self.inputs, weight, bias * scale + shift)


class RelevanceRules(TorchFunctionMode, ABC):
    """Replaces the gradients of a network's operations, so that value × gradient is relevance.

    Convolutions and linear layers divide relevance by `compute_surrogate`. Activations pass it on,
    gates count as constants, and operations that only move, average or select values keep their
    gradients. The rules apply within the `with` block; no hook is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer_count = 0
        self._previous: tuple[Tensor, AffineLayer] | None = None

    @abstractmethod
    def compute_surrogate(self, layer: AffineLayer, output: Tensor) -> Tensor:
        """Return the sum whose terms divide the relevance of a layer's output among them."""

    def handle_other(self, func: Operation, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Compute an operation that is no layer, activation or gate."""
        return func(*args, **options)

    def __torch_function__(
        self,
        func: Operation,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name, options = get_operation_name(func), dict(kwargs or {})
        if not args and "input" in options:
            args = (options.pop("input"),)
        if name in UNSUPPORTED or (
            name in PRODUCTS | NONLINEAR and not _is_linear(name, args, options)
        ):
            raise ClassifierError(
                f"relevance: {name} has no rule here, only convolutional networks are supported; "
                "choose a method that needs no layers, such as gradient or occlusion"
            )
        if name in ("conv2d", "linear"):
            return self._apply_affine(func, *args, **options)
        if name == "batch_norm":
            return self._apply_batch_norm(func, *args, **options)
        if name in ACTIVATIONS | GATES:
            value = func(args[0].detach().clone(), *args[1:], **options)
            return value if name in GATES else redirect_relevance(value, args[0])
        if name in LIMITS and (given := _find_only_operand(args, options)) is not None:
            with torch.no_grad():
                value = func(*args, **options)
            return redirect_relevance(value, given)
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
    """Return whether relevance flows through no operand, or through one factor alone."""
    operands = [*args, *options.values()]
    relevant = sum(isinstance(value, Tensor) and value.requires_grad for value in operands)
    allowed = 1 if name in PRODUCTS and name != "addcdiv" else 0
    return relevant <= allowed


def _find_only_operand(args: tuple[Any, ...], options: Mapping[str, Any]) -> Tensor | None:
    """Return the one of several operands through which relevance flows, else None.

    The others are constants. An operand that is broadcast to a larger result is no limit of itself.
    """
    operands = [value for value in (*args, *options.values()) if isinstance(value, Tensor)]
    flowing = [value for value in operands if value.requires_grad]
    sizes = [value.numel() for value in operands]
    is_only_one = len(operands) > 1 and len(flowing) == 1
    return flowing[0] if is_only_one and flowing[0].numel() == max(sizes) else None


def redirect_relevance(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value` with the gradients of `surrogate`, scaled to the same relevance.

    The terms of the sum `surrogate` divide the relevance of `value` among them. Where the sum is 0,
    no relevance flows.
    """
    total = surrogate.detach()
    scale = torch.where(total == 0, 0.0, value / torch.where(total == 0, 1.0, total))
    return value.detach() + (surrogate - total) * scale


def get_operation_name(func: Operation) -> str:
    """Return one name for all forms: `relu` for torch.relu, Tensor.relu_ and functional.relu."""
    name = str(getattr(func, "__name__", "")).rstrip("_")
    return OTHER_NAMES.get(name, name)


def forward_with_rules(
    classifier: Classifier, images: Images, inside: Tensor, rules: RelevanceRules
) -> Logits:
    """Return the classifier's logits, with gradients that follow the rules.

    Args:
        classifier: a classifier with an open convolutional network.
        images: images in [0, 1], `batch × channels × height × width`.
        inside: the normalised images; no leaf of the graph, as the network may write into them.
        rules: the rules of all operations.

    Returns:
        The logits, `batch × classes`.

    Raises:
        ClassifierError: the network is not open, or has operations that no rule covers.
    """
    network = get_open_module(classifier)
    with torch.no_grad():
        expected = classifier(images)
    with torch.enable_grad():
        with rules:
            raw = network(inside)
        logits = classifier.network.pick_tensor(raw)
        if not classifier.output.holds_probabilities:
            logits = classifier.network.read_logits_unchecked(raw)
    classifier.queries += len(inside)
    is_same = logits.shape == expected.shape and torch.allclose(logits, expected, 1e-2, 1e-2)
    if not (is_same and logits.requires_grad and rules.layer_count):
        raise ClassifierError(
            f"relevance: the layers of {classifier.spec} cannot be followed to its logits; choose "
            "a method that needs no layers, such as gradient or occlusion"
        )
    return logits
