"""Code that runs on a device, on one that is made up: it holds no float64 and mixes with no CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from apercu.devices import choose_device
from apercu.errors import ConfigError

FAKE = torch.device("meta")
"""Any device but the CPU; its tensors hold numbers here, as `OnDevice`."""


class OnDevice(Tensor):
    """A tensor that says that it is on the made-up device, around one on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        if held.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=FAKE
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def new_tensor(self, data: Any, **settings: Any) -> Tensor:  # type: ignore[override]
        return OnDevice(TENSOR(data, **{"dtype": self.dtype, **settings}))

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_on_device(call, args, kwargs or {})


class FakeDevice(TorchDispatchMode):
    """Runs on the CPU what is asked of the made-up device, and refuses what a real one refuses."""

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_on_device(call, args, kwargs or {})


def run_on_device(call: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation of torch; its results are on the device if its tensors were."""
    values = tree_flatten((args, kwargs))[0]
    given = [value for value in values if isinstance(value, Tensor)]
    on_device = [value for value in given if isinstance(value, OnDevice)]
    target = kwargs.get("device")
    is_copy = call.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
    mixed = [v for v in given if not isinstance(v, OnDevice) and v.ndim > 0]
    if on_device and mixed and not is_copy and "index" not in str(call):
        raise RuntimeError(f"{call}: expected all tensors on the same device")
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    inner = tree_map(lambda v: v.held if isinstance(v, OnDevice) else v, (args, kwargs))
    result = call(*inner[0], **inner[1])
    stays = target is None or torch.device(target) == FAKE
    if call.overloadpacket is torch.ops.aten.copy_:
        return args[0]
    if not (stays and (on_device or target is not None)):
        return result
    outputs = {id(v.held): v for v in on_device}  # of operations in place

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return outputs[id(value)] if id(value) in outputs else OnDevice(value)

    return tree_map(wrap, result)


def make_tensor(data: Any, device: Any = None, **settings: Any) -> Tensor:
    """Make a tensor as `torch.tensor` does; that one makes no numbers on the device meta."""
    made = TENSOR(data, **settings)
    return made if device is None or torch.device(device) != FAKE else OnDevice(made)


TENSOR = torch.tensor


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    monkeypatch.setattr("torch.tensor", make_tensor)
    with FakeDevice():
        yield FAKE


def test_the_fake_refuses_what_a_real_one_refuses(fake_device: torch.device) -> None:
    values = torch.ones(3, device=fake_device)
    assert values.device == fake_device
    assert (values + 1).sum().item() == 6 and (values.cpu().double() + 1).sum() == 6
    with pytest.raises(TypeError, match="float64"):
        values.double()
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(2, dtype=torch.float64, device=fake_device)
    with pytest.raises(RuntimeError, match="same device"):
        values + torch.ones(3)


def test_auto_takes_the_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in (
        (True, True, "cuda"),
        (False, True, "mps"),
        (False, False, "cpu"),
    ):
        monkeypatch.setattr("torch.cuda.is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda mps=mps: mps)
        assert choose_device("auto") == expected
        assert choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="torch sees no mps device; use auto or cpu"):
        choose_device("mps")
    with pytest.raises(ConfigError, match="expected one of auto, cpu, cuda, mps, got tpu"):
        choose_device("tpu")
