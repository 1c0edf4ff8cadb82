"""What every benchmark needs: networks of random weights, calls in turn, medians, and promises."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import timm
import torch

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, wrap_module
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.kind import build_mask_network
from apercu.explainers.mask.settings import MASK_PRESETS

SIZE = 224
"""Side of the images, in pixels, where a benchmark says nothing else."""
CPU = torch.device("cpu")
HEAD = 10
"""The last layer is multiplied by it, so that probabilities of random weights move."""

Call = Callable[[], object]
Clock = Callable[[], float]
Rounds = Mapping[str, Sequence[float]]
"""Seconds by name, one for each round."""


@dataclass(frozen=True)
class Promise:
    """A limit that is promised, and what was measured.

    Attributes:
        what: the figure in words.
        value: the figure as measured.
        limit: its largest value, or its smallest one where `least`.
        least: whether more is better.
    """

    what: str
    value: float
    limit: float
    least: bool = False

    @property
    def is_kept(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit

    def __str__(self) -> str:
        bound = f"at {'least' if self.least else 'most'} {self.limit:g}"
        return f"{self.what:<58} {self.value:8.2f}  {bound:<14} {'' if self.is_kept else 'MISSED'}"


def report_promises(promises: Sequence[Promise]) -> int:
    """Print promises, one a line, and return the exit status: 1 where one is not kept."""
    print(*promises, sep="\n")
    return 0 if all(promise.is_kept for promise in promises) else 1


def open_timm(name: str, size: int) -> Classifier:
    """Open a timm model with random weights as a classifier; time does not depend on weights.

    Args:
        name: the model's name in timm.
        size: side of its images in pixels.

    Returns:
        A classifier of ImageNet's classes.
    """
    spec = InputSpec(
        channels=3, size=(size, size), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    network = timm.create_model(name)
    with torch.no_grad():
        network.get_classifier().weight *= HEAD
    return wrap_module(network, ClassifierCard(source=f"timm/{name}", input=spec))


def make_untrained_explainer(classifier: Classifier, preset: str) -> MaskExplainer:
    """Return the mask explainer of a preset, with random weights."""
    settings, info = MASK_PRESETS.presets[preset], ClassifierInfo.from_classifier(classifier)
    return MaskExplainer(build_mask_network(settings, info, classifier), info, settings, {})


def time_in_turns(
    calls: Mapping[str, Call], repeats: int, device: torch.device, clock: Clock = time.perf_counter
) -> Rounds:
    """Call each once to warm up, then time all of them in turn.

    Args:
        calls: what is timed, by name.
        repeats: number of rounds.
        device: where the work is done.
        clock: clock in seconds.

    Returns:
        Seconds by name, one for each round.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(time_call(call, device, clock))
    return times


def time_call(call: Call, device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Return the seconds of one call, all work of the device included."""
    _synchronise(device)
    start = clock()
    call()
    _synchronise(device)
    return clock() - start


def compute_ratio(rounds: Rounds, name: str, base: str) -> float:
    """Return the median over the rounds of one's time over another's."""
    return statistics.median(a / b for a, b in zip(rounds[name], rounds[base], strict=True))


def report_missing(rival: str) -> int:
    """Print that a rival is not installed, and return the exit status: no promise is kept."""
    print(f"not compared: {rival} is missing; `make bench` installs it")
    return 1


def format_times(seconds: Sequence[float]) -> str:
    """Return the median of some times, and half their interquartile range."""
    if len(seconds) == 1:
        return f"{seconds[0]:8.4f} s"
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return f"{middle:8.4f} s ± {(high - low) / 2:.4f}"


def _synchronise(device: torch.device) -> None:
    """Wait until a device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
