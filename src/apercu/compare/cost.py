"""What an explanation costs: warmed up, synchronised, median and interquartile range."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from apercu.classifiers import Classifier
from apercu.compare.results import Cost
from apercu.methods import Explainer
from apercu.types import Images, Targets


def cost(
    name: str,
    explainer: Explainer,
    classifier: Classifier,
    inputs: tuple[Images, Targets],
    repeats: int,
) -> Cost:
    """Time one batch, and one classifier forward of the same batch beside it."""
    images, targets = inputs

    def forward() -> object:
        with torch.no_grad():
            return classifier(images)

    own, its = [], []
    for repeat in range(repeats + 1):
        forward_ms = _milliseconds(forward, images.device)
        explain_ms = _milliseconds(lambda: explainer(classifier, images, targets), images.device)
        if repeat:
            its.append(forward_ms / len(images))
            own.append(explain_ms / len(images))
    median = statistics.median(own)
    return Cost(
        explainer=name,
        device=images.device.type,
        batch=len(images),
        ms_per_image=median,
        iqr=spread(own),
        classifier_forwards=median / statistics.median(its),
        training_seconds=explainer.training_seconds,
    )


def spread(values: Sequence[float]) -> float:
    """The interquartile range; 0 of a single value.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    2.0
    """
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def environment(seed: int, device: torch.device) -> dict[str, Any]:
    """Where and with what a comparison ran."""
    about = {
        "apercu": version("apercu"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
    }
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    return about


def _milliseconds(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return (time.perf_counter() - start) * 1000


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
