"""`--device auto` knows what can compute where."""

from __future__ import annotations

import pytest
import torch

from apercu.cli.options import Device
from apercu.errors import ConfigError


@pytest.fixture
def export(tmp_path):
    (tmp_path / "explainer.json").touch()
    return tmp_path


@pytest.mark.parametrize("there", [True, False])
def test_auto_takes_a_gpu_for_a_run_and_the_cpu_for_an_export(
    export, tmp_path, monkeypatch, there: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert Device.AUTO.resolve_for(tmp_path / "run") == ("cuda" if there else "cpu")
    assert Device.AUTO.resolve_for(export) == "cpu"
    assert Device.CPU.resolve_for(tmp_path / "run") == "cpu"


def test_a_gpu_that_is_asked_for_is_never_left_out(export, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Device.CUDA.resolve_for(export) == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no cuda device is available here"):
        Device.CUDA.resolve_for(export)
