"""The same classifier has the same fingerprint, and no other has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from apercu.classifiers import ClassifierCard, InputSpec, wrap_module
from apercu.io import digest_file
from apercu.weights import digest_module


def _module(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))


def _fingerprint(
    module: nn.Module,
    output: Any = "logits",
    options: Any = None,
    filter: str | None = None,
    **changes: Any,
) -> str:
    spec = InputSpec(**{"channels": 1, "size": (4, 4), "mean": (0.5,), **changes})
    card = ClassifierCard(
        source="a.b:c", options=options or {}, input=spec, output=output, filter=filter
    )
    return wrap_module(module, card).fingerprint


def test_the_same_weights_and_preprocessing_give_the_same() -> None:
    assert _fingerprint(_module()) == _fingerprint(_module())
    assert len(_fingerprint(_module())) == 64


def test_memory_layout_and_counters_do_not_count() -> None:
    module = _module().to(memory_format=torch.channels_last)
    module[1].num_batches_tracked += 5  # type: ignore[operator, index]
    assert digest_module(module, "", {}) == digest_module(_module(), "", {})


def test_any_change_of_the_outputs_changes_it() -> None:
    one_weight, statistics = _module(), _module()
    with torch.no_grad():
        one_weight[0].weight[1, 0, 2, 2] += 1e-6  # type: ignore[union-attr, index]
        statistics[1].running_mean[0] = 1e-6  # type: ignore[union-attr, index]
    fingerprints = {
        _fingerprint(_module()),
        _fingerprint(one_weight),
        _fingerprint(statistics),
        _fingerprint(_module(), mean=(0.25,)),
        _fingerprint(_module(), std=(0.5,)),
        _fingerprint(_module(), resize=5),
        _fingerprint(_module(), mean=None, normalise="l2_per_channel"),
        _fingerprint(_module().append(nn.Softmax(1)), "probabilities"),
        _fingerprint(_module(), options={"pad_type": "same"}),
    }
    assert len(fingerprints) == 9


def test_a_filter_counts_as_it_works_and_not_as_it_is_typed() -> None:
    bare, jpeg = _fingerprint(_module()), _fingerprint(_module(), filter="jpeg")
    assert len({bare, jpeg, _fingerprint(_module(), filter="jpeg:quality=74")}) == 3
    assert jpeg == _fingerprint(_module(), filter="jpeg:quality=75")
    assert bare == _fingerprint(_module(), filter="none")


def test_a_renamed_weight_is_another_network() -> None:
    first, second = nn.ModuleDict({"a": _module()}), nn.ModuleDict({"b": _module()})
    assert digest_module(first, "", {}) != digest_module(second, "", {})


def test_a_file_is_its_bytes(tmp_path: Path) -> None:
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    assert digest_file(tmp_path / "a") == digest_file(tmp_path / "b")
    assert digest_file(tmp_path / "a") != digest_file(tmp_path / "c")
