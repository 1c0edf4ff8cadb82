"""Imports go down the tree only, and the package itself is light."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import apercu

SOURCE = Path(apercu.__file__).parent
LAYERS = (
    ("errors", "log", "progress", "types"),
    ("devices", "extras", "io", "maps", "option_strings", "verdicts"),
    ("run_record", "render", "statistics", "own_code", "weights"),
    ("images", "pages", "filters"),
    ("classifiers", "removal"),
    ("networks", "metrics"),
    ("training",),
    ("explainers",),
    ("methods", "guard"),
    ("explain",),
    ("evaluation", "interop"),
    ("robustness", "pretraining"),
    ("learning",),
    ("deploy.export",),
    ("deploy.inference",),
    ("deploy.batch", "deploy.serving", "deploy.video"),
    ("cli",),
    ("__main__",),
)
"""From the bottom up; a part imports from lower layers only, never from its neighbours."""
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
UPWARD = {("explainers", "explain")}
"""`explainer.explain(…)` imports what it returns when it is called."""
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))


def find_part(names: tuple[str, ...]) -> str:
    """The part of the package that a module belongs to, from its names below `apercu`."""
    first = names[0].removesuffix(".py")
    return f"deploy.{names[1].removesuffix('.py')}" if first == "deploy" else first


def find_imports(path: Path, *, inside_functions: bool = True) -> Iterator[str]:
    """Dotted names of all modules of this package that a file imports."""
    tree = ast.parse((SOURCE / path).read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if inside_functions else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name.startswith("apercu."))
        elif isinstance(node, ast.ImportFrom) and node.module == "apercu":
            yield from (f"apercu.{one.name}" for one in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("apercu."):
            yield node.module or ""


PARTS = {
    path: find_part(path.parts)
    for path in FILES
    if path not in (Path("__init__.py"), Path("deploy/__init__.py"))
}
"""Each file → its part of the package."""


def test_every_part_has_its_layer() -> None:
    assert set(PARTS.values()) == set(HEIGHT)


@pytest.mark.parametrize("path", PARTS, ids=str)
def test_imports_go_down_only(path: Path) -> None:
    own = PARTS[path]
    for name in find_imports(path):
        other = find_part(tuple(name.split(".")[1:]))
        is_below = other == own or HEIGHT[other] < HEIGHT[own]
        assert is_below or (own, other) in UPWARD, f"{path} imports {name}"


def test_the_manual_has_the_same_layers() -> None:
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page.partition("## Four walks")[0], re.MULTILINE)
    layers = [tuple(re.findall(r"`([\w.]+)`", row)) for row in rows]
    assert layers == [layer for layer in LAYERS if layer != ("__main__",)]


def test_the_manual_names_files_that_exist() -> None:
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([\w/]+(?:/|\.py))`", page)
    assert len(paths) > 30
    for path in paths:
        assert (SOURCE / path).exists() or (SOURCE.parents[1] / path).exists(), path


def test_no_file_takes_part_in_a_circle() -> None:
    modules = {".".join(("apercu", *path.with_suffix("").parts)): path for path in FILES}
    below = {
        name: {one for one in find_imports(path, inside_functions=False) if one in modules}
        for name, path in modules.items()
    }
    while free := [name for name, needs in below.items() if not needs]:
        below = {n: needs.difference(free) for n, needs in below.items() if n not in free}
    assert not below


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, apercu\n"
        "heavy = {'torch', 'numpy', 'PIL', 'pydantic', 'typer', 'rich'} & set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""


def test_opening_a_run_needs_no_training_library() -> None:
    code = (
        "import sys, apercu\n"
        "apercu.MaskExplainer, apercu.open_images, apercu.open_classifier\n"
        "heavy = {'lightning', 'captum', 'timm', 'matplotlib', 'onnxruntime', 'pyarrow'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("package", ["", "robustness", "pretraining"])
def test_names_that_are_imported_late_are_those_that_types_are_checked_with(package: str) -> None:
    tree = ast.parse((SOURCE / package / "__init__.py").read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {each.name for node in checked.body for each in getattr(node, "names", ())}
    module = importlib.import_module(f"apercu.{package}".rstrip("."))
    assert imported == {*module._HOMES, *getattr(module, "_MODULES", ())}


def test_every_public_name_is_there() -> None:
    for name in apercu.__all__:
        assert getattr(apercu, name) is not None
    assert dir(apercu) == sorted(apercu.__all__)
    with pytest.raises(AttributeError, match="no attribute 'MaskExplaner'"):
        _ = apercu.MaskExplaner
