"""How much memory a call takes at its peak, on top of what was there before."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEGABYTE = 1e6


@dataclass
class PeakMemory:
    """Filled in when the block of `peak_memory` ends; None where the machine does not tell."""

    peak_mb: float | None = None


@contextmanager
def track_peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """The most memory that is taken inside the block, above what was taken when it began.

    On a GPU that is allocated memory. On the CPU it is the process's resident memory as Linux
    counts it, after what is free was given back; other systems do not tell.
    """
    memory = PeakMemory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        yield memory
        memory.peak_mb = (torch.cuda.max_memory_allocated(device) - start) / MEGABYTE
        return
    resident = _reset_peak()
    yield memory
    if resident is not None:
        memory.peak_mb = (_read_status("VmHWM") - resident) / MEGABYTE


def _reset_peak() -> float | None:
    """Forgets the highest resident memory so far and returns the present one, in bytes."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        RESET.write_text("5")
        return _read_status("VmRSS")
    except (OSError, AttributeError):
        return None


def _read_status(name: str) -> float:
    """A line of the process's status, in bytes."""
    lines = STATUS.read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
