"""What explanations cost: time (warmed up, synchronised, median), queries, memory; compared."""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any

import torch

from apercu.classifiers import Classifier
from apercu.devices import synchronise
from apercu.evaluation.results import ComparisonResults, Cost
from apercu.methods import MapExplainer
from apercu.types import Images, Targets

LIBRARIES = ("torch", "torchvision", "timm", "captum", "numpy")
"""Libraries whose versions may change a figure."""
MAX_SECONDS = 60.0
"""Seconds for which one figure is measured; the call that exceeds them is the last."""
CPU_INFO = Path("/proc/cpuinfo")
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEGABYTE = 1e6


def measure_cost(
    name: str,
    explainer: MapExplainer,
    classifier: Classifier,
    inputs: tuple[Images, Targets],
    repeats: int,
) -> Cost:
    """Measure explanations of one batch, and classifier forwards of the same batch.

    Args:
        name: the name of the explainer in the results.
        explainer: what is measured.
        classifier: the classifier that it explains.
        inputs: images and targets of one batch.
        repeats: the number of calls; fewer where they would take more than `MAX_SECONDS`.

    Returns:
        The medians over the calls.
    """
    images, targets = inputs

    def forward() -> object:
        with torch.no_grad():
            return classifier(images)

    def explain() -> object:
        return explainer(classifier, images, targets)

    forward()
    queries_before, start = classifier.queries, time.perf_counter()
    with track_peak_memory(images.device) as memory:
        first = _time_call(explain, images.device)
    queries = classifier.queries - queries_before
    explainer_times: list[float] = []
    forward_times: list[float] = []
    while len(explainer_times) < repeats and time.perf_counter() - start < MAX_SECONDS:
        forward_times.append(_time_call(forward, images.device) / len(images))
        explainer_times.append(_time_call(explain, images.device) / len(images))
    if not explainer_times:  # a call that takes so long needs no warm-up
        forward_times = [_time_call(forward, images.device) / len(images)]
        explainer_times = [first / len(images)]
    median = statistics.median(explainer_times)
    return Cost(
        explainer=name,
        device=images.device.type,
        batch=len(images),
        ms_per_image=median,
        iqr=interquartile_range(explainer_times),
        classifier_forwards=median / statistics.median(forward_times),
        training_seconds=explainer.training_seconds,
        queries=queries / len(images),
        peak_mb=memory.peak_mb,
    )


def interquartile_range(values: Sequence[float]) -> float | None:
    """Return the interquartile range; None of a single value.

    >>> interquartile_range([1.0, 2.0, 3.0, 4.0, 5.0])
    2.0
    """
    if len(values) < 2:
        return None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


@dataclass
class PeakMemory:
    """The result of `track_peak_memory`, set when its block ends; None where it is unknown."""

    peak_mb: float | None = None


@contextmanager
def track_peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measure the most memory that is taken inside the block, above what was taken at its start.

    On a GPU that is allocated memory. On the CPU it is the resident memory of the process as Linux
    counts it, after free memory was given back; on other systems it is unknown.
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


def describe_environment(seed: int, device: torch.device) -> dict[str, Any]:
    """Return the machine, the versions, the date and the seed of a comparison."""
    environment = {
        "apercu": version("apercu"),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "machine": find_processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
    }
    if device.type == "cuda":
        environment["gpu"] = torch.cuda.get_device_name(device)
    return environment


def find_processor_name() -> str:
    """Return the processor's name where the system gives it (Linux), else its architecture."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True)
class CostComparison:
    """The cost of one explainer, compared with the trained ones.

    Attributes:
        cost: the cost as it was measured.
        break_even: the number of images after which each trained explainer has taken less time.
        never: the trained explainers that never take less time, as this one is as fast.
    """

    cost: Cost
    break_even: Mapping[str, int]
    never: tuple[str, ...] = ()


def compare_costs(results: ComparisonResults) -> list[CostComparison]:
    """Return all costs, each with the images after which each trained explainer is ahead.

    A trained explainer is ahead where its training and its time per image sum up to less than the
    other's time, see `equalise_costs`. It is left out where the other one is as fast, or needs
    training too.
    """
    trained = {name for name, needs in results.needs.items() if "training" in needs}
    comparisons = []
    equalised = equalise_costs(results)
    for cost, other in zip(results.cost, equalised, strict=True):
        comparable = [
            own
            for own in equalised
            if own.explainer in trained
            and cost.explainer not in trained
            and (own.batch, own.device) == (cost.batch, cost.device)
        ]
        faster = [own for own in comparable if own.ms_per_image < other.ms_per_image]
        ahead = {own.explainer: _count_break_even(own, other) for own in faster}
        never = tuple(own.explainer for own in comparable if own not in faster)
        comparisons.append(CostComparison(cost, ahead, never))
    return comparisons


def equalise_costs(results: ComparisonResults) -> list[Cost]:
    """Return the costs as if the machine had been equally busy all the time.

    A method is timed by turns with the classifier, but hours may lie between two methods. So each
    takes its own number of forwards, times the median forward of that batch.
    """
    forwards: dict[tuple[str, int], list[float]] = {}
    for cost in results.cost:
        forward = cost.ms_per_image / cost.classifier_forwards
        forwards.setdefault((cost.device, cost.batch), []).append(forward)
    return [
        replace(
            cost,
            ms_per_image=(
                cost.classifier_forwards * statistics.median(forwards[cost.device, cost.batch])
            ),
        )
        for cost in results.cost
    ]


def format_break_even(line: CostComparison) -> str:
    """Return numbers of images as text, or "never"; of several trained explainers, with names.

    Empty where nothing is compared: the row needs training itself, or nothing else does.

    >>> cost = Cost("cam", "cpu", 1, 9.0, None, 1.0, 0.0, 1.0, None)
    >>> format_break_even(CostComparison(cost, {"mask": 1200}))
    '1,200'
    >>> format_break_even(CostComparison(cost, {"a": 7}, ("b",)))
    'a 7, b never'
    """
    counts = {name: f"{count:,}" for name, count in line.break_even.items()}
    counts |= dict.fromkeys(line.never, "never")
    if len(counts) == 1:
        return next(iter(counts.values()))
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _time_call(call: Callable[[], object], device: torch.device) -> float:
    """Return the milliseconds that a call takes."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return (time.perf_counter() - start) * 1000


def _reset_peak() -> float | None:
    """Reset the highest resident memory so far, and return the present one in bytes."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        RESET.write_text("5")
        return _read_status("VmRSS")
    except (OSError, AttributeError):
        return None


def _read_status(name: str) -> float:
    """Return a line of the process's status, in bytes."""
    lines = STATUS.read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _count_break_even(trained: Cost, other: Cost) -> int:
    seconds = trained.training_seconds - other.training_seconds
    return max(0, ceil(1000 * seconds / (other.ms_per_image - trained.ms_per_image)))
