"""A check of the archive of an exported program, which refuses what could run code.

`torch.export.load` unpickles some parts of an archive, evaluates the text of symbolic sizes, and
calls functions by any dotted name. Only tensors stored as bytes, calls of tensor operators and
plain arithmetic of sizes are allowed here. torch receives a copy of what was checked.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apercu.errors import ClassifierError

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file)\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|torch\.sym_(float|int|max|min|not|ite|sqrt|sum)|math\.(ceil|floor|trunc)"
)
_SIZE_WORD = re.compile(
    r"[su]\d+|Symbol|Integer|Float|Rational|Eq|Ne|Lt|Le|Gt|Ge|Not|And|Or|Max|Min|Abs|Mod|PythonMod"
    r"|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt|TruncToInt|IntTrueDiv|FloatTrueDiv|ToFloat"
    r"|Where|Identity|PowByNatural"
)
_SIZE_SYNTAX = (
    *(ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp),
    *(ast.UnaryOp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop),
)


def copy_checked_archive(path: Path | str, content: bytes | None = None) -> io.BytesIO:
    """Return a copy of an exported program that holds only checked entries, no sample inputs.

    Args:
        path: path of the `.pt2` file, or a name for what is in memory.
        content: bytes of the file; read from the path if None.

    Returns:
        The copy, in memory.

    Raises:
        ClassifierError: the file is no such archive, or loading it could run code.
    """
    copy = io.BytesIO()
    try:
        source = path if content is None else io.BytesIO(content)
        with zipfile.ZipFile(source) as archive, zipfile.ZipFile(copy, "w") as out:
            for name in archive.namelist():
                inner = name.partition("/")[2]
                if inner.startswith("data/sample_inputs/"):
                    out.writestr(name, b"")
                    continue
                content = archive.read(name)
                _check_entry(path, inner, content)
                out.writestr(name, content)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise ClassifierError(
            f"{path}: expected a program saved by torch.export.save ({error})"
        ) from None
    copy.seek(0)
    return copy


def _check_entry(path: Path | str, name: str, content: bytes) -> None:
    if name.startswith("data/aotinductor/"):
        raise ClassifierError(f"{path}: holds compiled code; save it with torch.export.save")
    if name.startswith(("data/weights/", "data/constants/")):
        if name.endswith("_config.json"):
            _check_payloads(path, json.loads(content))
        elif name.endswith(".pt"):
            raise _refusal(path, "weights in the legacy pickle format")
    elif name.startswith("models/"):
        for key, value in _walk_strings(json.loads(content)):
            if key in ("target", "as_operator") and not _OPERATOR.fullmatch(value):
                raise _refusal(path, f"a call of {value}")
            if key in ("in_spec", "out_spec") and not _is_plain_structure(value):
                raise _refusal(path, f"{key} {value!r}")
            if key == "expr_str" and not _is_arithmetic(value):
                raise _refusal(path, f"the size {value!r}")


def _check_payloads(path: Path | str, listing: dict[str, Any]) -> None:
    for name, payload in listing["config"].items():
        is_tensor = payload["path_name"].startswith(("weight_", "tensor_"))
        if payload["use_pickle"] or not is_tensor:
            raise _refusal(path, f"{name} in a pickle")


def _walk_strings(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a JSON tree, with the key to which it belongs."""
    if isinstance(tree, str):
        yield key, tree
    elif isinstance(tree, list):
        for item in tree:
            yield from _walk_strings(item, key)
    elif isinstance(tree, dict):
        for name, item in tree.items():
            yield from _walk_strings(item, name)


def _is_plain_structure(text: str) -> bool:
    """Whether a stored structure of arguments is built of tuples, lists and dictionaries only."""
    kinds = {value for key, value in _walk_strings(json.loads(text)) if key == "type"}
    return kinds <= {"builtins.tuple", "builtins.list", "builtins.dict"}


def _is_arithmetic(text: str) -> bool:
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    return all(isinstance(node, _SIZE_SYNTAX) and _is_plain(node) for node in ast.walk(tree))


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    word = node.id if isinstance(node, ast.Name) else getattr(node, "value", None)
    return not isinstance(word, str) or bool(_SIZE_WORD.fullmatch(word))


def _refusal(path: Path | str, what: str) -> ClassifierError:
    """Return the error for an archive that holds something unsafe."""
    return ClassifierError(
        f"{path}: refused, it holds {what}, which could run code; "
        "export the plain network again, or use ONNX"
    )
