"""Where tensors live: the CPU, a GPU of NVIDIA (cuda), or one of Apple (mps); and their mode.

A function that does a whole job has `device="auto"`, as the verbs of the command line. One that
opens a classifier, an explainer or a guard leaves it on the CPU, where its caller's tensors are.
A GPU of Apple has no float64. Sums that need it are taken on the CPU.
No gradient passes a tensor that was made in `torch.inference_mode()`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from apercu.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Devices as people type them; `auto` takes a GPU where there is one."""
FEWEST_CHANNELS = 16
"""Channels that a strided 1 × 1 convolution has at least where channels may be last in memory."""


def choose_device(name: str) -> str:
    """Return `cpu`, `cuda` or `mps`; for `auto` the first of cuda, mps and cpu that is there.

    Raises:
        ConfigError: there is no such device, or torch sees none.
    """
    if name not in DEVICES:
        raise ConfigError(f"device: expected one of {', '.join(DEVICES)}, got {name}")
    if name == "auto":
        return next((kind for kind in ("cuda", "mps") if _is_available(kind)), "cpu")
    _check_available(name)
    return name


def read_device(device: str | torch.device) -> torch.device:
    """Return the device of a name: one of `DEVICES`, or one of torch's own such as `cuda:1`.

    >>> read_device("cpu")
    device(type='cpu')

    Raises:
        ConfigError: there is no such device, or torch sees none.
    """
    if isinstance(device, torch.device):
        return device
    if device in DEVICES:
        return torch.device(choose_device(device))
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ConfigError(
            f"device: expected one of {', '.join(DEVICES)}, or a name of torch such as cuda:1, "
            f"got {device}"
        ) from None
    _check_available(found.type)
    return found


def choose_memory_format(module: nn.Module) -> torch.memory_format:
    """Return the order of a network's tensors in memory: channels last, which is faster, if it may.

    In this order oneDNN computes wrong gradients of the weights of strided 1 × 1 convolutions of
    few channels, or writes outside of its memory (its issue 6035 on GitHub), so networks with such
    a layer keep the usual order.
    """
    for layer in module.modules():
        if (
            isinstance(layer, nn.Conv2d)
            and tuple(layer.kernel_size) == (1, 1)
            and tuple(layer.stride) != (1, 1)
            and layer.in_channels < FEWEST_CHANNELS
        ):
            return torch.contiguous_format
    return torch.channels_last


def _is_available(kind: str) -> bool:
    """Whether torch sees a GPU of a kind; of kinds other than cuda and mps it is not asked."""
    if kind == "cuda":
        return torch.cuda.is_available()
    return kind != "mps" or torch.backends.mps.is_available()


def _check_available(kind: str) -> None:
    if not _is_available(kind):
        raise ConfigError(f"device: no {kind} device is available here; use auto or cpu")


def count_cores() -> int:
    """Return how many cores of the CPU this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all that was given to it; on the CPU nothing waits."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def leave_inference_mode() -> Iterator[None]:
    """Turn `torch.inference_mode()` into `torch.no_grad()` in a block, or in a decorated function.

    What is made there can take part in gradients; whoever needs them enables them as usual.
    """
    is_enabled = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(is_enabled):
        yield


def copy_inference(values: Tensor) -> Tensor:
    """Return a tensor that gradients can pass: a copy, if it was made in `inference_mode`."""
    if not values.is_inference():
        return values
    with torch.inference_mode(False):
        return values.clone()


@contextmanager
def enable_gradients() -> Iterator[None]:
    """Leave `torch.inference_mode()` and `torch.no_grad()` in a block, or in a decorated function.

    Functions that train or take gradients have it, so that they may be called in any mode.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield
