"""Execute the notebooks of this folder, and store them with their outputs: `make notebooks`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from itertools import filterfalse
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
RUNTIME = FOLDER.parents[1] / "runtime"
"""The folder of `apercu_runtime`, which is a distribution of its own."""
TIMEOUT = 900
"""Seconds that one cell may take on a busy machine."""


def execute(path: Path) -> NotebookNode:
    """Execute a notebook in an empty folder, and return it with its outputs.

    Args:
        path: the notebook.

    Returns:
        The notebook, without times, and without second forms of a picture.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as settings:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(RUNTIME), os.environ.get("PYTHONPATH", "")]),
            "IPYTHONDIR": settings,
            "JUPYTER_PLATFORM_DIRS": "1",
        }
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT,
            resources={"metadata": {"path": folder}},
            record_timing=False,
            kernel_name="python3",
        )
        client.execute(env=environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _join_streams(list(filterfalse(_is_progress, cell.outputs)))
    for output in list_outputs(notebook):
        if output.get("data", {}).keys() & {"text/html", "image/jpeg"}:
            output["data"].pop("image/png", None)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def _is_progress(output: NotebookNode) -> bool:
    """Return whether an output only says how long some work took, which differs every time."""
    return "apercu-progress" in output.get("data", {}).get("text/html", "")


def _join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join what was printed piece by piece."""
    joined: list[NotebookNode] = []
    for output in outputs:
        is_stream = output.output_type == "stream" and joined
        if is_stream and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def list_outputs(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the outputs of all cells."""
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def main(names: list[str]) -> None:
    """Execute the notebooks of these names, or all."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        begun = time.monotonic()
        nbformat.write(execute(path), path)
        seconds, size = time.monotonic() - begun, path.stat().st_size / 1e6
        print(f"{path.name}: {seconds:.0f} s, {size:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
