"""What a call costs: queries are counted, memory is seen, patience ends."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, wrap_module
from apercu.evaluation import cost as cost_module
from apercu.evaluation import cost as memory
from apercu.evaluation.cost import interquartile_range, measure_cost
from apercu.methods import Occlusion, Rise, TrainedMethod


class Mean(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


@pytest.fixture
def classifier() -> Classifier:
    spec = InputSpec(channels=3, size=(16, 16))
    return wrap_module(Mean(), ClassifierCard(source="tests:mean", input=spec))


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, 3, 16, 16), torch.tensor([0, 2])


def test_queries_are_those_of_one_image(
    classifier: Classifier, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    rise = measure_cost("rise", Rise(masks=40), classifier, inputs, repeats=2)
    assert (rise.explainer, rise.batch, rise.queries) == ("rise", 2, 40)
    occlusion = Occlusion()
    before = classifier.queries
    occlusion(classifier, *inputs)
    queries = (classifier.queries - before) / 2
    assert measure_cost("occlusion", occlusion, classifier, inputs, repeats=3).queries == queries
    trained = TrainedMethod(lambda images, targets: images[:, 0], "mask", 60.0)
    assert measure_cost("mask", trained, classifier, inputs, repeats=1).queries == 0


@pytest.mark.skipif(not memory.RESET.exists(), reason="only Linux tells a process's peak memory")
def test_memory_is_what_a_call_takes_at_its_peak() -> None:
    with memory.track_peak_memory(torch.device("cpu")) as small:
        torch.ones(1000)
    with memory.track_peak_memory(torch.device("cpu")) as large:
        torch.ones(25_000_000).sum()  # 100 MB, freed before the end
    assert small.peak_mb is not None and large.peak_mb is not None
    assert small.peak_mb < 20
    assert 95 < large.peak_mb < 140


def test_memory_is_unknown_on_other_systems(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "RESET", tmp_path / "missing" / "clear_refs")
    with memory.track_peak_memory(torch.device("cpu")) as peak:
        pass
    assert peak.peak_mb is None


def test_a_call_that_takes_too_long_is_made_once(
    classifier: Classifier,
    inputs: tuple[torch.Tensor, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def slow(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        time.sleep(0.05)
        return images[:, 0]

    monkeypatch.setattr(cost_module, "MAX_SECONDS", 0.01)
    cost = measure_cost("slow", TrainedMethod(slow, "slow", 0.0), classifier, inputs, repeats=9)
    assert calls == [2]
    assert cost.ms_per_image >= 25
    assert cost.iqr is None


def test_the_machine_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Another\n")
    monkeypatch.setattr(cost_module, "CPU_INFO", cpu_info)
    assert cost_module.find_processor_name() == "Some CPU @ 2 GHz"
    cpu_info.write_text("processor : 0\n")
    assert cost_module.find_processor_name() in (platform.processor(), platform.machine())


def test_the_interquartile_range_is_that_of_numpy() -> None:
    values = [5.0, 1.0, 4.0, 8.0, 2.0, 9.0]
    low, high = np.percentile(values, [25, 75])
    assert interquartile_range(values) == pytest.approx(high - low)
    assert interquartile_range([3.0]) is None
