"""Where tensors live: the CPU, a GPU of NVIDIA (cuda), or one of Apple (mps).

A GPU of Apple has no numbers of 64 bits with a point. Sums that need them are taken on the CPU.
"""

from __future__ import annotations

import torch

from apercu.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Devices as people type them; `auto` takes a GPU where there is one."""


def choose_device(name: str) -> str:
    """Return `cpu`, `cuda` or `mps`; for `auto` the first of cuda, mps and cpu that is there.

    Raises:
        ConfigError: there is no such device, or torch sees none.
    """
    if name not in DEVICES:
        raise ConfigError(f"device: expected one of {', '.join(DEVICES)}, got {name}")
    has_gpu = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next((device for device, is_there in has_gpu.items() if is_there), "cpu")
    if not has_gpu.get(name, True):
        raise ConfigError(f"device: no {name} device is available here; use auto or cpu")
    return name


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all that was given to it; on the CPU nothing waits."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
