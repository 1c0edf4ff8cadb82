"""The notebooks of the manual run, and are stored with what they show.

Each one has a class of its own, so that they are spread over processes.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "notebooks"
NAMES = (
    *("first-minute", "own-classifier", "which-method"),
    *("counterparts", "what-breaks-it"),
)
MOST_BYTES = 1_500_000


def load_runner() -> ModuleType:
    """The script behind `make notebooks`, which is no part of a package."""
    specification = importlib.util.spec_from_file_location("notebooks", FOLDER / "run.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


runner = load_runner()


def describe_outputs(notebook: NotebookNode) -> list[list[str]]:
    """The kinds of the outputs of each cell."""
    return [
        [
            "+".join(sorted(output.data)) if "data" in output else output.output_type
            for output in cell.get("outputs", ())
        ]
        for cell in notebook.cells
    ]


def find_texts(notebook: NotebookNode) -> str:
    """All texts of the outputs, without pictures."""
    parts = []
    for output in runner.list_outputs(notebook):
        parts += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
        html = output.get("data", {}).get("text/html", "")
        parts.append(re.sub(r'src="data:image/[^"]*"', "", html))
    return "\n".join(parts)


def check_stored(notebook: NotebookNode) -> None:
    """Check what holds for the outputs of every notebook."""
    nbformat.validate(notebook)
    assert [kind for kinds in describe_outputs(notebook) for kind in kinds if kind == "error"] == []
    outputs = runner.list_outputs(notebook)
    assert [out.text for out in outputs if out.get("name") == "stderr"] == []
    texts = find_texts(notebook)
    assert not re.search(r"https?://|/home/|/root/|/tmp/|<script", texts)


def check_run(name: str) -> None:
    """Execute a notebook, and check that it shows what is stored."""
    stored = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    executed = runner.execute(FOLDER / f"{name}.ipynb")
    check_stored(executed)
    assert describe_outputs(executed) == describe_outputs(stored)


def test_all_notebooks_are_listed() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_can_be_read_without_running_it(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    check_stored(notebook)
    assert path.stat().st_size < MOST_BYTES
    assert notebook.cells[0].source.startswith("# ")
    assert len(runner.list_outputs(notebook)) >= 5
    numbers = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert numbers == list(range(1, len(numbers) + 1))


class TestFirstMinute:
    def test_it_runs(self) -> None:
        check_run("first-minute")


class TestOwnClassifier:
    def test_it_runs(self) -> None:
        check_run("own-classifier")


class TestWhichMethod:
    def test_it_runs(self) -> None:
        check_run("which-method")


class TestCounterparts:
    def test_it_runs(self) -> None:
        check_run("counterparts")


class TestWhatBreaksIt:
    def test_it_runs(self) -> None:
        check_run("what-breaks-it")
