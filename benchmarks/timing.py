"""What every benchmark needs: a classifier, calls by turns, medians, ratios within each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import timm
import torch

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, wrap_module

HEAD = 10
"""The last layer is multiplied by it, so that probabilities of random weights move."""

Call = Callable[[], object]
Clock = Callable[[], float]
Rounds = Mapping[str, Sequence[float]]
"""Seconds by name, one for each round."""


def opened(name: str, size: int) -> Classifier:
    """A timm model with random weights, opened as a classifier; time does not depend on weights."""
    spec = InputSpec(
        channels=3, size=(size, size), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    network = timm.create_model(name)
    with torch.no_grad():
        network.get_classifier().weight *= HEAD
    return wrap_module(network, ClassifierCard(source=f"timm/{name}", input=spec))


def by_turns(
    calls: Mapping[str, Call], repeats: int, device: torch.device, clock: Clock = time.perf_counter
) -> Rounds:
    """Each call once to warm up, then all of them in turn, `repeats` times."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(timed(call, device, clock))
    return times


def timed(call: Call, device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Seconds of one call, all work of the device included."""
    _wait(device)
    start = clock()
    call()
    _wait(device)
    return clock() - start


def ratio(rounds: Rounds, name: str, base: str) -> float:
    """The median over the rounds of one's time over another's."""
    return statistics.median(a / b for a, b in zip(rounds[name], rounds[base], strict=True))


def missing(rival: str) -> int:
    """Says that a rival is not installed, which keeps no promise; the exit status."""
    print(f"not compared: {rival} is missing; `make bench` installs it")
    return 1


def shown(seconds: Sequence[float]) -> str:
    """Median and half the interquartile range."""
    if len(seconds) == 1:
        return f"{seconds[0]:8.4f} s"
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return f"{middle:8.4f} s ± {(high - low) / 2:.4f}"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
