"""Files of weights as people have them: wrappers around the names, checkpoints, other types."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from apercu import open_classifier
from apercu.errors import ClassifierError, UntrustedError
from apercu.weights import load_weights

State = dict[str, Tensor]


def _build(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def _state(seed: int = 0) -> State:
    return _build(seed).state_dict()


def _prefix(state: State, *names: str) -> State:
    return {f"{name}{key}": value.clone() for name in names for key, value in state.items()}


def _save(path: Path, content: Any) -> Path:
    save = save_file if path.suffix == ".safetensors" else torch.save
    save(content, path)
    return path


def _assert_loaded(path: Path) -> None:
    module = _build(seed=1)
    load_weights(module, path)
    for name, expected in _state().items():
        torch.testing.assert_close(module.state_dict()[name], expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: _prefix(state, "module."),
        lambda state: _prefix(state, "model.net."),
        lambda state: _prefix(state, "module._orig_mod."),
        lambda state: {key.replace("0.", "0._fsdp_wrapped_module."): v for key, v in state.items()},
        lambda state: {key.replace("3.", "3._orig_mod."): value for key, value in state.items()},
        lambda state: _prefix(state, "module.") | {"n_averaged": torch.tensor(3)},
        lambda state: {key: value for key, value in state.items() if "batches" not in key},
    ],
)
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_names_of_wrappers_are_taken_away(
    wrap: Callable[[State], State], ending: str, tmp_path: Path
) -> None:
    _assert_loaded(_save(tmp_path / f"weights{ending}", wrap(_state())))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": _prefix(state, "model."), "hyper_parameters": {"lr": 0.1}},
        lambda state: {"model": state, "optimizer": {"state": {0: {"step": torch.ones(2)}}}},
        lambda state: {"net": state, "other": {"weight": torch.zeros(2)}, "epoch": 3},
        lambda state: {"model_state_dict": state, "ema": _prefix({"weight": torch.ones(2)}, "a.")},
    ],
)
@pytest.mark.parametrize("ending", [".ckpt", ".PT", ".bin"])
def test_the_weights_are_found_in_a_checkpoint(
    wrap: Callable[[State], Any], ending: str, tmp_path: Path
) -> None:
    _assert_loaded(_save(tmp_path / f"last{ending}", wrap(_state())))


def test_a_file_of_the_former_format(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(_state(), path, _use_new_zipfile_serialization=False)
    _assert_loaded(path)


@pytest.mark.parametrize(
    ("ending", "content", "match"),
    [
        (
            ".pth",
            {"model": _state(), "model_ema": _state(2)},
            "networks that fit, model, model_ema",
        ),
        (".safetensors", _prefix(_state(), "ema.", "model."), r"networks that fit, ema\., model\."),
        (".pth", _state() | {"head.weight": torch.ones(2)}, "1 unexpected: head.weight"),
        (".ckpt", {"state_dict": _prefix(_state(), "net.") | {"loss.w": torch.ones(2)}}, "loss.w"),
        (".pth", _state() | {"3.bias": torch.ones(3, dtype=torch.int8)}, "3.bias int8 instead of"),
        (".pth", _state() | {"3.bias": torch.full((3,), torch.nan)}, "hold NaN"),
        (".pth", {key: value.to("meta") for key, value in _state().items()}, "holds no state_dict"),
        (".pth", [1, 2], "holds no state_dict"),
        (".pth", _build(), "holds other objects than tensors"),
        (".pth", {"a": _state(), "b": Path()}, "holds other objects than tensors"),
    ],
)
def test_files_that_do_not_fit_are_one_line(
    ending: str, content: Any, match: str, tmp_path: Path
) -> None:
    path, module = _save(tmp_path / f"weights{ending}", content), _build(seed=1)
    with pytest.raises(ClassifierError, match=rf"^weights .*{match}") as caught:
        load_weights(module, path)
    assert "\n" not in str(caught.value)
    for name, expected in _state(seed=1).items():  # nothing was copied
        assert torch.equal(module.state_dict()[name], expected)


def test_checkpoints_that_are_damaged(tmp_path: Path) -> None:
    path = _save(tmp_path / "weights.pth", _state())
    data = path.read_bytes()
    for part in (b"", data[:50], data[: len(data) // 2], b"\x80" + bytes(40)):
        path.write_bytes(part)
        with pytest.raises(ClassifierError, match=r"expected a state_dict written by torch\.save"):
            load_weights(_build(), path)
    with pytest.raises(ClassifierError, match="no such file"):
        load_weights(_build(), tmp_path / "other.pth")
    path.write_bytes(data)
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ClassifierError, match="it is compressed"):
        load_weights(_build(), tmp_path / "packed.pth")
    with pytest.raises(ClassifierError, match=r"a file of torch\.save ends with \.pth"):
        load_weights(_build(), path.rename(tmp_path / "weights.safetensors"))


def test_a_card_names_a_checkpoint_only_where_it_is_trusted(tmp_path: Path) -> None:
    """It is a pickle, which a stranger could have made."""
    module = timm.create_model("test_resnet", num_classes=2)
    _save(tmp_path / "weights.PTH", {"state_dict": module.state_dict()})
    card = tmp_path / "card.json"
    options, size = {"num_classes": 2, "pretrained": False}, {"size": [32, 32]}
    content = {"source": "timm/test_resnet", "options": options, "weights": "weights.PTH"}
    card.write_text(json.dumps(content | {"input": size}))
    match = r"weights\.PTH: refused, as .* is a pickle; save .*save_file, or add --trust"
    with pytest.raises(UntrustedError, match=match):
        open_classifier(card)
    images = torch.rand(1, 3, 32, 32)
    opened = open_classifier(card, trust=True)
    with torch.no_grad():
        expected = module.eval()(opened.normalise(images))
    torch.testing.assert_close(opened(images), expected)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "was-run",)

    path = _save(tmp_path / "weights.pth", {"state_dict": _state(), "extra": Evil()})
    with pytest.raises(ClassifierError, match="holds other objects than tensors"):
        load_weights(_build(), path)
    assert not (tmp_path / "was-run").exists()
