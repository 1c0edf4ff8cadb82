"""A check of the archive of an exported program, which refuses what could run code.

`torch.export.load` unpickles some members of an archive, imports modules for the structure of its
arguments, evaluates the text of symbolic sizes, calls functions by any dotted name, and writes
names into the source of a function that it compiles. So the whole archive is compared with a list
of what may stand in it: members, keys and texts. torch receives a copy of what is on the list.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from apercu.errors import ClassifierError, UntrustedError, shorten
from apercu.io import parse_json

_START = b"PK\x03\x04"
"""First bytes of an archive; a file that begins in another way is something else, too."""
_MODEL = "models/model.json"
_CONFIG = re.compile(r"data/(weights|constants)/model_\1_config\.json")
_TENSOR = re.compile(r"data/(weights/weight|constants/tensor)_\d{1,9}")
_NOTES = re.compile(r"archive_format|archive_version|byteorder|\.?version|\.data/\w+|\.\w+")
"""Small members about the file itself; they hold a word or a number."""
_LEFT_OUT = re.compile(r"data/sample_inputs/model\.pt|extra/.*")
"""Members that no explanation needs; torch receives them empty, or not at all."""

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!__|from_file|save|_?load|warn|_test|\w*sparse|_?nested)\w+(\.(?!__)\w+)?"
    r"|torch\.ops\.higher_order\.(scan|wrap_with_(set_grad_enabled|autocast))"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|torch\.sym_(float|int|max|min|not|ite|sqrt|sum)|math\.(ceil|floor|trunc)"
)
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,300})?")
"""Names of values, which become names of variables."""
_PATH = re.compile(r"[\w.@-]{0,500}", re.ASCII)
"""Names of weights and modules with dots, and keys."""
_TEXTS = {
    **dict.fromkeys(("name", "as_name", "user_input_name", "forward_arg_names"), _NAME),
    **dict.fromkeys(("parameter_name", "buffer_name", "tensor_constant_name", "fqn"), _PATH),
    **dict.fromkeys(("target", "as_operator"), _OPERATOR),
    **dict.fromkeys(("as_string", "as_strings"), re.compile(r"[\w.,> -]{0,200}", re.ASCII)),
    **dict.fromkeys(("verifiers", "torch_version"), re.compile(r"[\w.+<=-]{0,50}", re.ASCII)),
    "type": re.compile(r"cpu|cuda|mps|meta"),
    "path_name": re.compile(r"(weight|tensor)_\d{1,9}"),
}
"""What a text may be, by the key to which it belongs."""
_DROPPED: Mapping[str, Any] = {
    "metadata": {},
    "guards_code": [],
    "treespec_namedtuple_fields": {},
}
"""Parts of a program that are only notes, or code that checks shapes; torch receives them empty."""

MAX_SIZE_TEXT = 2000
_SIZE_WORD = re.compile(
    r"[su]\d+|Symbol|Integer|Float|Rational|Eq|Ne|Lt|Le|Gt|Ge|Not|And|Or|Max|Min|Abs|Mod|PythonMod"
    r"|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt|TruncToInt|IntTrueDiv|FloatTrueDiv|ToFloat"
    r"|Where|Identity|Add|Mul"
)
_SIZE_SYNTAX = (
    *(ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp),
    *(ast.UnaryOp, ast.USub, ast.UAdd, ast.Not, ast.Compare, ast.cmpop),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow),
)
_MAX_POWERS, _MAX_EXPONENT, _MAX_NUMBER = 4, 8, 2**63


def copy_checked_archive(path: Path | str, content: bytes | None = None) -> io.BytesIO:
    """Return a copy of an exported program that holds only what was checked.

    Args:
        path: path of the `.pt2` file, or a name for what is in memory.
        content: bytes of the file; read from the path if None.

    Returns:
        The copy, in memory.

    Raises:
        ClassifierError: the file is no such archive.
        UntrustedError: loading it could run code.
    """
    try:
        data = Path(path).read_bytes() if content is None else content
        members = _read_members(path, data)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError) as error:
        raise ClassifierError(
            f"{path}: expected a program saved by torch.export.save ({error})"
        ) from None
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as out:
        for name, member in members.items():
            try:
                out.writestr(f"program/{name}", _check_member(path, name, member, members))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ClassifierError(
                    f"{path}: {name} is damaged ({shorten(str(error))}); export the network again"
                ) from None
    copy.seek(0)
    return copy


def _read_members(path: Path | str, data: bytes) -> dict[str, bytes]:
    """Return the members of an archive by their names without the folder of the archive."""
    members: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if not data.startswith(_START):
            raise _refusal(path, "something else before the archive")
        for entry in archive.infolist():
            name = entry.filename.partition("/")[2]
            if name in members:
                raise _refusal(path, f"{shorten(name)} twice")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise ValueError(f"{shorten(name)} is compressed")
            if name.startswith("extra/"):
                continue
            members[name] = archive.read(entry)
    if len({entry.filename.partition("/")[0] for entry in archive.infolist()}) != 1:
        raise _refusal(path, "more than one folder")
    if _MODEL not in members:
        raise ValueError(f"it has no {_MODEL}")
    return members


def _check_member(
    path: Path | str, name: str, content: bytes, members: Mapping[str, bytes]
) -> bytes:
    """Return what torch receives of a member; raises UntrustedError if it is on no list."""
    if _LEFT_OUT.fullmatch(name):
        return b""
    if name.startswith("data/aotinductor/"):
        raise UntrustedError(f"{path}: holds compiled code; save it with torch.export.save")
    if name.startswith(("data/weights/", "data/constants/")) and name.endswith(".pt"):
        raise _refusal(path, "weights in the legacy pickle format")
    if _TENSOR.fullmatch(name):
        return content
    if _CONFIG.fullmatch(name):
        config = parse_json(content)
        _check_payloads(path, config, members, name.rpartition("/")[0])
        _check_texts(path, config)
        return content
    if name == _MODEL:
        program = _drop_notes(parse_json(content))
        _check_texts(path, program)
        return json.dumps(program).encode()
    if _NOTES.fullmatch(name) and re.fullmatch(rb"[\w.]{0,100}\s*", content):
        return content
    raise _refusal(path, f"a member {shorten(name)}")


def _check_payloads(
    path: Path | str, config: Any, members: Mapping[str, bytes], folder: str
) -> None:
    """Check that every tensor is stored as bytes, and is no larger than these."""
    for name, payload in config["config"].items():
        is_tensor = payload["path_name"].startswith(("weight_", "tensor_"))
        if payload["use_pickle"] is not False or not is_tensor:
            raise _refusal(path, f"{shorten(name)} in a pickle")
        sizes = [size["as_int"] for size in payload["tensor_meta"]["sizes"]]
        stored = len(members[f"{folder}/{payload['path_name']}"])
        if not all(type(size) is int and size >= 0 for size in sizes) or math.prod(sizes) > stored:
            raise ValueError(f"{shorten(name)} is larger than its bytes")


def _drop_notes(tree: Any) -> Any:
    """Return a JSON tree with empty notes and checks."""
    if isinstance(tree, list):
        return [_drop_notes(item) for item in tree]
    if isinstance(tree, dict):
        return {
            key: _DROPPED[key] if key in _DROPPED else _drop_notes(item)
            for key, item in tree.items()
        }
    return tree


def _check_texts(path: Path | str, tree: Any) -> None:
    """Check every key and every text of a JSON tree."""
    for key, value in _walk_strings(tree):
        if key in ("in_spec", "out_spec"):
            if not _is_plain_structure(value):
                raise _refusal(path, f"{key} {shorten(value)}")
        elif key == "expr_str":
            if not _is_arithmetic(value):
                raise _refusal(path, f"the size {shorten(value)}")
        elif not (key in _TEXTS and _TEXTS[key].fullmatch(value)):
            what = "a call of" if key in ("target", "as_operator") else f"the {key or 'key'}"
            raise _refusal(path, f"{what} {shorten(value).strip(chr(39))}")


def _walk_strings(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a JSON tree with the key to which it belongs, and its unusual keys."""
    if isinstance(tree, str):
        yield key, tree
    elif isinstance(tree, list):
        for item in tree:
            yield from _walk_strings(item, key)
    elif isinstance(tree, dict):
        for name, item in tree.items():
            if not _PATH.fullmatch(name):
                yield "", name
            yield from _walk_strings(item, name)


def _is_plain_structure(text: str) -> bool:
    """Whether a stored structure of arguments is built of tuples, lists and dictionaries only.

    The context of a node holds the keys of a dictionary; in it torch would import a module for
    members of an enumeration.
    """
    version, root = parse_json(text)
    return version == 1 and _is_plain_node(root)


def _is_plain_node(node: Any) -> bool:
    if not isinstance(node, dict) or set(node) != {"type", "context", "children_spec"}:
        return False
    kind, context, children = node["type"], node["context"], node["children_spec"]
    if kind not in (None, "builtins.tuple", "builtins.list", "builtins.dict"):
        return False
    keys = None if context is None else parse_json(context)
    plain = keys is None or (
        kind == "builtins.dict"
        and isinstance(keys, list)
        and all(type(key) is int or (isinstance(key, str) and _NAME.fullmatch(key)) for key in keys)
    )
    return plain and isinstance(children, list) and all(map(_is_plain_node, children))


def _is_arithmetic(text: str) -> bool:
    """Whether the text of a size is arithmetic of symbols and small numbers."""
    try:
        tree = ast.parse(text[: MAX_SIZE_TEXT + 1], mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    nodes = list(ast.walk(tree))
    powers = [node for node in nodes if isinstance(node, ast.BinOp) and _is_power(node)]
    return (
        len(text) <= MAX_SIZE_TEXT
        and len(powers) <= _MAX_POWERS
        and all(isinstance(node, _SIZE_SYNTAX) and _is_plain(node) for node in nodes)
        and all(_is_small(node.right) for node in powers)
    )


def _is_power(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.Pow)


def _is_small(node: ast.AST) -> bool:
    value = getattr(node, "value", None)
    return isinstance(value, int) and 0 <= value <= _MAX_EXPONENT


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    word = node.id if isinstance(node, ast.Name) else getattr(node, "value", None)
    if isinstance(word, str):
        return bool(_SIZE_WORD.fullmatch(word))
    return not isinstance(word, int | float) or abs(word) <= _MAX_NUMBER


def _refusal(path: Path | str, what: str) -> UntrustedError:
    """Return the error for an archive that holds something unsafe."""
    return UntrustedError(
        f"{path}: refused, it holds {what}, which could run code; export the plain network again, "
        "use ONNX, or add --trust (in Python trust=True) if you trust this file"
    )
