"""What a source of classifiers hands to the door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from apercu.classifiers.card import InputSpec, Output
from apercu.classifiers.names import ClassNames


@runtime_checkable
class ForwardFn(Protocol):
    """Normalised images → the network's raw output; an `nn.Module` is one."""

    def __call__(self, images: Tensor, /) -> Any: ...

    def to(self, device: torch.device, /) -> Any: ...


@dataclass(frozen=True)
class Network:
    """A network with all that the door must know about it.

    Args:
        source: where it comes from, as in a card.
        answer: the network; an `nn.Module` counts as open: its layers may be looked at.
        digest: identity of its weights and structure, from `fingerprint`.
        input: what it expects of its images.
        output: what its numbers mean.
        names: of its classes; None where it brings none.
        options: what it was built with.
        differentiable: whether gradients reach the images.
    """

    source: str
    forward: ForwardFn
    digest: str
    input: InputSpec
    output: Output = "logits"
    names: ClassNames | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    differentiable: bool = True

    def with_names(self, names: ClassNames) -> Network:
        """The same network with these class names."""
        return replace(self, names=names)


@dataclass(frozen=True)
class BlackBox:
    """A function on the CPU that answers without gradients.

    Args:
        ask: images on the CPU → answers on the CPU.
    """

    function: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        return self.function(images.detach().cpu()).to(images.device)

    def to(self, device: torch.device) -> BlackBox:
        """Itself: it stays on the CPU, its answers follow the images."""
        return self
