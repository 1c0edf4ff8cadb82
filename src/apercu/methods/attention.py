"""The attention matrices of a vision transformer, and the tokens that its logits are read from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple, TypeAlias, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.overrides import TorchFunctionMode

from apercu.classifiers import Classifier
from apercu.classifiers.positions import MapLayout, make_probes
from apercu.errors import ClassifierError
from apercu.maps import resize_maps
from apercu.methods.base import require_gradients
from apercu.methods.tokens import find_feature_layouts
from apercu.types import Images, Maps

MAX_BATCH = 16
"""The number of images whose attention matrices are stored at once."""

Relevance: TypeAlias = Float[Tensor, "batch queries tokens"]
"""How much each query token depends on each token of the first layer."""

_PRODUCTS = ("matmul", "__matmul__", "bmm", "einsum")


class Attention(NamedTuple):
    """The attention of one layer.

    Attributes:
        matrix: the weight of every token (last axis) in every query, `batch × heads × queries ×
            tokens`; each row sums to 1.
        edge: the matrix as autograd.grad takes it.
    """

    matrix: Float[Tensor, "batch heads queries tokens"]
    edge: Tensor | GradientEdge


class AttentionRecorder(TorchFunctionMode):
    """Gives every attention matrix of a forward pass to a function, in the order of the layers.

    Attention is recognised where it is computed, so it does not matter who wrote the layers: fused
    attention (computed openly here), `multi_head_attention_forward`, and products whose left factor
    has rows that sum to 1. The rules apply within the `with` block; no hook is set.

    Args:
        images: the number of images in the pass.
        keep: receives each attention.
    """

    def __init__(self, images: int, keep: Callable[[Attention], object]) -> None:
        super().__init__()
        self._images = images
        self._receive = keep

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._attend(*args, **options)
        if name == "multi_head_attention_forward":
            return self._attend_with_weights(func, args, options)
        if name in _PRODUCTS:
            self._keep_left_factor(name, args)
        return func(*args, **options)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compute fused attention in two steps, with its matrix between them."""
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = (part.repeat_interleave(groups, dim=-3) for part in (key, value))
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        matrix = scores.softmax(dim=-1)
        self._keep(matrix, matrix)
        return F.dropout(matrix, dropout_p) @ value

    def _attend_with_weights(
        self, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Ask the function behind nn.MultiheadAttention for the weights of every head."""
        call = signature(func).bind(*args, **options)
        call.apply_defaults()
        needs_weights = call.arguments["need_weights"]
        is_average = call.arguments["average_attn_weights"]
        call.arguments.update(need_weights=True, average_attn_weights=False)
        output, matrix = func(*call.args, **call.kwargs)
        edge = matrix
        if matrix.requires_grad:  # a view of the matrix that the values are multiplied with
            edge = GradientEdge(*matrix.grad_fn.next_functions[0])
        self._keep(matrix, edge)
        if not needs_weights:
            return output, None
        return output, matrix.mean(dim=1) if is_average else matrix

    def _keep_left_factor(self, name: str, args: tuple[Any, ...]) -> None:
        """Keep the left factor of a product if it is an attention matrix."""
        if name == "einsum":
            if len(args) < 2 or not isinstance(args[0], str) or not _is_matrix_product(args[0]):
                return
            args = tuple(args[1]) if isinstance(args[1], list | tuple) else args[1:]
        left = args[0] if len(args) > 1 else None
        if (
            isinstance(left, Tensor)
            and left.ndim >= 3
            and left.shape[-1] > 1
            and left.is_floating_point()
            and _has_rows_of_weights(left.detach())
        ):
            self._keep(left, left)

    def _keep(self, matrix: Tensor, edge: Tensor | GradientEdge) -> None:
        """Pass a matrix on; heads that are counted among the images are told apart."""
        if matrix.ndim == 3 and len(matrix) % self._images == 0:
            matrix = matrix.reshape(self._images, -1, *matrix.shape[1:])
        self._receive(Attention(matrix, edge))


def _is_matrix_product(equation: str) -> bool:
    """Return whether an einsum is a product of matrices, as `b h i j, b h j d -> b h i d`."""
    left, _, result = equation.replace(" ", "").partition("->")
    first, _, second = left.partition(",")
    batch, i, j = first[:-2], first[-2:-1], first[-1:]
    return second[:-1] == batch + j and result == batch + i + second[-1:]


def _has_rows_of_weights(matrix: Tensor) -> bool:
    """Return whether no value is negative and every row sums to 1."""
    if bool((matrix < 0).any()):
        return False
    return bool(((matrix.sum(dim=-1, dtype=torch.float32) - 1).abs() < 0.01).all())


@dataclass(frozen=True)
class TokenFlow:
    """How tokens pass through a vision transformer.

    Attributes:
        layout: which tokens of the sequence are positions of the image.
        count: the number of all tokens.
        outputs: the tokens from which the logits are read: the class token, say, or all positions.
    """

    layout: MapLayout
    count: int
    outputs: tuple[int, ...]

    def start(self, images: Images) -> Relevance:
        """Return the relevance before the first layer: every token depends on itself."""
        identity = torch.eye(self.count, device=images.device)
        return identity.expand(len(images), -1, -1)

    def read(self, relevance: Relevance, size: tuple[int, int]) -> Maps:
        """Return the relevance of all positions for the logits, as maps of the images' size."""
        rows = relevance[:, list(self.outputs)].mean(dim=1)
        return resize_maps(self.layout.read(rows[:, :, None])[:, 0], size)


_token_flows: WeakKeyDictionary[nn.Module, dict[tuple[int, int], TokenFlow]] = WeakKeyDictionary()


def find_token_flow(classifier: Classifier, module: nn.Module, method: str) -> TokenFlow:
    """Return how tokens pass through a network; the result is kept for each network.

    Args:
        classifier: a classifier with gradients.
        module: its open network.
        method: the name of the method, for error messages.

    Returns:
        The positions of the image among the tokens, and the tokens that the logits are read from.

    Raises:
        ClassifierError: the network is no transformer whose layers all have the same tokens.
    """
    require_gradients(classifier, method)
    flows = _token_flows.setdefault(module, {})
    if classifier.size not in flows:
        flows[classifier.size] = _trace_token_flow(classifier, module, method)
    return flows[classifier.size]


@torch.enable_grad()
def _trace_token_flow(classifier: Classifier, module: nn.Module, method: str) -> TokenFlow:
    probes = make_probes(classifier.channels, classifier.size)[:2].to(classifier.device)
    attentions: list[Attention] = []
    with AttentionRecorder(len(probes), attentions.append):
        logits = classifier(probes.requires_grad_())
    count = attentions[0].matrix.shape[-1] if attentions else 0
    layout = find_feature_layouts(classifier, module).get_tokens(count)
    fault = _find_fault([attention.matrix for attention in attentions], len(probes))
    if fault or layout is None:
        raise ClassifierError(
            f"{method} follows the same tokens through all layers, as in ViT, DeiT, BEiT, EVA and "
            f"DINO; {classifier.spec} {fault or 'has no grid of tokens that can be recognised'}: "
            "choose grad_cam, or a method that only queries, such as rise"
        )
    weights = torch.linspace(1, 2, logits.shape[1], device=logits.device)
    (gradient,) = differentiate((logits * weights).sum(), attentions[-1:], classifier, method)
    outputs = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten().tolist()
    return TokenFlow(layout, count, tuple(outputs))


def _find_fault(matrices: Sequence[Tensor], images: int) -> str:
    """Return why the attention of a network cannot be followed; empty where it can."""
    if not matrices:
        return "has no attention between tokens"
    if any(matrix.ndim != 4 or len(matrix) != images for matrix in matrices):
        return "has attention within windows or parts of the image"
    counts = sorted({matrix.shape[-1] for matrix in matrices}, reverse=True)
    if len(counts) > 1:
        return f"has layers with different numbers of tokens ({', '.join(map(str, counts))})"
    if any(matrix.shape[-2] != counts[0] for matrix in matrices[:-1]):
        return f"has layers in which not all {counts[0]} tokens attend"
    return ""


def differentiate(
    score: Float[Tensor, ""], attentions: Sequence[Attention], classifier: Classifier, method: str
) -> tuple[Tensor, ...]:
    """Return the gradients of a score by attention matrices, in the shape of these.

    Args:
        score: what is differentiated, one number.
        attentions: attention matrices that it was computed with.
        classifier: the classifier, for error messages.
        method: the name of the method, for error messages.

    Returns:
        One gradient per matrix, `batch × heads × queries × tokens`.

    Raises:
        ClassifierError: no gradient reaches a matrix, or all of them are 0.
    """
    edges = cast("Sequence[Tensor]", [attention.edge for attention in attentions])
    gradients = torch.autograd.grad(score, edges, allow_unused=True) if score.requires_grad else ()
    parts = [gradient for gradient in gradients if gradient is not None]
    if len(parts) < len(edges) or not any(part.any() for part in parts):
        raise ClassifierError(
            f"{method}: the logits of {classifier.spec} do not depend on its attention; choose a "
            "method that only queries, such as rise"
        )
    return tuple(
        part.reshape(attention.matrix.shape)
        for part, attention in zip(parts, attentions, strict=True)
    )
