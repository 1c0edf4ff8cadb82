"""Exported programs that could run code are refused before torch sees them."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from apercu.classifiers import open_classifier
from apercu.classifiers.sources.archive import copy_checked_archive
from apercu.errors import ClassifierError, UntrustedError

ENUM = (
    r"\"context\": \"[{\\\"__enum__\\\": true, \\\"fqn\\\": \\\"evil_of_archive:X\\\", "
    r"\\\"name\\\": \\\"A\\\"}]\""
)
"""A context for which torch would import the module `evil_of_archive`."""


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
        ("models/model.json", r"\"context\": \"[]\"", ENUM, "in_spec"),
        ("models/model.json", '"name": "relu"', '"name": "x = exec(1) #"', "the name"),
        ("models/model.json", '"name": "relu"', r'"name": "a\nb"', "the name"),
        ("models/model.json", '"3.weight"', "\"3') + exec('1\"", "the parameter_name"),
        ("models/model.json", '{"aten"', '{"a b"', "the key"),
        ("models/model.json", '"forward_arg_names": ["', '"forward_arg_names": ["a=1, ', "names"),
        ("model_weights_config.json", '"3.weight"', r'"3\".weight"', "the key"),
        ("archive_format", "pt2", "#!/bin/sh", "a member"),
    ],
)
def test_archives_that_could_run_code_are_refused(
    plain: Path, tmp_path: Path, entry: str, old: str, new: str, match: str
) -> None:
    path = _change_entry(plain, tmp_path / "bad.pt2", entry, _replace(old, new))
    with pytest.raises(ClassifierError, match=f"refused, .*{match}"):
        copy_checked_archive(path)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("net/data/weights/model.pt", "legacy pickle"),
        ("net/data/constants/model.pt", "legacy pickle"),
        ("net/data/aotinductor/model/a.so", "compiled code"),
        ("net/data/aotinductor/model/inner.pt2", "compiled code"),
        ("net/data/constants/custom_obj_0", "a member"),
        ("net/data/constants/opaque_obj_0", "a member"),
        ("net/data/weights/weight_0.so", "a member"),
        ("net/data/weights/../weight_0", "a member"),
        ("net/models/other.json", "a member"),
        ("net/executorch/a.pte", "a member"),
        ("net/xl_model_weights/model_param_config.json", "a member"),
        ("net/evil.py", "a member"),
        ("net/models/model.json", "twice"),
        ("net/data/weights/weight_0", "twice"),
        ("other/data/weights/weight_99", "more than one folder"),
        ("serialized_state_dict.pt", "more than one folder|a member"),
        ("version", "more than one folder|a member"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_are_on_no_list_are_refused(
    plain: Path, tmp_path: Path, name: str, match: str
) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(plain.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"\x7fELF")
    with pytest.raises(UntrustedError, match=match):
        open_classifier(path)


def test_a_file_that_is_something_else_too_is_refused(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(b"\x7fELF" + bytes(100) + plain.read_bytes())
    with pytest.raises(UntrustedError, match="something else before the archive"):
        open_classifier(path)


def test_a_compressed_archive_is_no_program(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    with (
        zipfile.ZipFile(plain) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ClassifierError, match="is compressed"):
        open_classifier(path)


def test_a_structure_that_imports_a_module_is_refused(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "ran"
    (tmp_path / "evil_of_archive.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    change = _replace(r"\"context\": \"[]\"", ENUM)
    path = _change_entry(plain, tmp_path / "bad.pt2", "models/model.json", change)
    with pytest.raises(UntrustedError, match="in_spec"):
        open_classifier(path)
    assert not trace.exists()
    sys.modules.pop("evil_of_archive", None)
    with pytest.raises(ClassifierError, match="cannot read it"):
        open_classifier(path, trust=True)
    assert trace.exists()


def test_code_that_checks_shapes_is_not_run(plain: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    change = _replace('"guards_code": [', f'"guards_code": ["open({str(trace)!r}, \'w\')", ')
    path = _change_entry(plain, tmp_path / "bad.pt2", "models/model.json", _end_list(change))
    torch.export.load(copy_checked_archive(path)).module()(torch.rand(2, 1, 4, 4))
    assert not trace.exists()


def _end_list(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda content: change(content).replace(b", ]", b"]")


def test_weights_larger_than_their_bytes_are_refused(plain: Path, tmp_path: Path) -> None:
    def change(content: bytes) -> bytes:
        config = json.loads(content)
        config["config"]["3.weight"]["tensor_meta"]["sizes"][0] = {"as_int": 10**12}
        return json.dumps(config).encode()

    path = _change_entry(plain, tmp_path / "bad.pt2", "model_weights_config.json", change)
    with pytest.raises(ClassifierError, match=r"3\.weight' is larger than its bytes"):
        open_classifier(path)


def test_deep_json_is_damage(plain: Path, tmp_path: Path) -> None:
    path = _change_entry(
        plain, tmp_path / "bad.pt2", "models/model.json", lambda _: b"[" * 10**5 + b"]" * 10**5
    )
    with pytest.raises(ClassifierError, match="nested too deeply"):
        open_classifier(path)


@pytest.mark.parametrize(
    "size",
    [
        "__import__('os').system('x')",
        "eval('1')",
        "Symbol('s0').x",
        "Symbol('__x__')",
        "[s0 for s0 in u0]",
        "9**9**9",
        "s0**9",
        "1" * 3000,
        "(" * 1000 + "s0" + ")" * 1000,
        "Mod(s0, 99999999999999999999)",
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
