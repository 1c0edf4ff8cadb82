"""Exported programs that could run code are refused before torch sees them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from apercu.classifiers import open_classifier
from apercu.classifiers.sources.archive import copy_checked_archive
from apercu.errors import ClassifierError


class _Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "net.pt2"
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()
    shapes = ({0: torch.export.Dim("n", min=1, max=8)},)
    program = torch.export.export(module, (torch.rand(2, 1, 4, 4),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def _change_entry(plain: Path, path: Path, entry: str, change: Callable[[bytes], bytes]) -> Path:
    changed = 0
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            fits = name.endswith(entry)
            changed += fits
            new.writestr(name, change(old.read(name)) if fits else old.read(name))
    assert changed == 1
    return path


def _replace(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


def test_a_plain_program_opens(plain: Path) -> None:
    assert len(open_classifier(plain).classes) == 2


def test_a_pickle_among_the_sample_inputs_is_never_loaded(plain: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    path = _change_entry(
        plain,
        tmp_path / "bomb.pt2",
        "data/sample_inputs/model.pt",
        lambda _: pickle.dumps(_Bomb(trace)),
    )
    open_classifier(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("entry", "old", "new", "match"),
    [
        ("models/model.json", "torch.ops.aten.relu.default", "torch.os.system", "torch.os.system"),
        ("models/model.json", "torch.ops.aten.relu.default", "torch.load", "a call of torch.load"),
        (
            "models/model.json",
            "torch.ops.aten.relu.default",
            "torch.ops.aten.from_file.default",
            "from_file",
        ),
        ("models/model.json", "Symbol(", "exec(", "the size"),
        ("models/model.json", "builtins.tuple", "collections.defaultdict", "in_spec"),
        ("model_weights_config.json", '"use_pickle": false', '"use_pickle": true', "in a pickle"),
        ("model_weights_config.json", "weight_0", "opaque_obj_0", "in a pickle"),
    ],
)
def test_archives_that_could_run_code_are_refused(
    plain: Path, tmp_path: Path, entry: str, old: str, new: str, match: str
) -> None:
    path = _change_entry(plain, tmp_path / "bad.pt2", entry, _replace(old, new))
    with pytest.raises(ClassifierError, match=f"refused, .*{match}"):
        copy_checked_archive(path)


@pytest.mark.parametrize("name", ["data/weights/model.pt", "data/aotinductor/model/a.so"])
def test_pickled_weights_and_compiled_code_are_refused(
    plain: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(plain.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"net/{name}", b"")
    with pytest.raises(ClassifierError, match=r"legacy pickle|compiled code"):
        copy_checked_archive(path)


@pytest.mark.parametrize(
    "size",
    [
        "__import__('os').system('x')",
        "eval('1')",
        "Symbol('s0').x",
        "Symbol('__x__')",
        "[s0 for s0 in u0]",
        "lambda: 1",
        "s0 +",
    ],
)
def test_sizes_that_are_no_arithmetic(size: str) -> None:
    from apercu.classifiers.sources.archive import _is_arithmetic

    assert not _is_arithmetic(size)
    assert _is_arithmetic("Max(1, FloorDiv(Symbol('s77', positive=True, integer=True) + 3, 2))")


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_files_that_are_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with pytest.raises(ClassifierError, match=r"saved by torch\.export\.save"):
        open_classifier(path)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/models/model.json", json.dumps({}))
    with pytest.raises(ClassifierError, match="cannot read it"):
        open_classifier(path)
