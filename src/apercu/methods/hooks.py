"""Hooks on the layers of a network, which are removed at the end of a `with` block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn

Hook: TypeAlias = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]
"""Is called with (module, inputs, output); what it returns replaces the output, unless None."""


@contextmanager
def attach_hook(module: nn.Module, hook: Hook) -> Iterator[None]:
    """Call a hook with (module, inputs, output) of a layer within the `with` block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watch_outputs(module: nn.Module, keep: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Call a function with name and output of every layer within the `with` block."""
    with ExitStack() as hooks:
        for name, layer in module.named_modules():

            def hook(layer: nn.Module, inputs: object, output: object, name: str = name) -> None:
                if isinstance(output, Tensor):
                    keep(name, output)

            hooks.callback(layer.register_forward_hook(hook).remove)
        yield


@contextmanager
def watch_linear_inputs(module: nn.Module, keep: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Call a function with name and input of every linear layer within the `with` block."""
    with ExitStack() as hooks:
        for name, layer in module.named_modules():

            def hook(layer: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
                if inputs and isinstance(inputs[0], Tensor):
                    keep(name, inputs[0])

            if isinstance(layer, nn.Linear):
                hooks.callback(layer.register_forward_pre_hook(hook).remove)
        yield
