"""The notebooks of the manual run, and are stored with what they show.

Each one has a class of its own, so that they are spread over processes.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
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


class Kernel:
    """A running kernel, and what its cells show."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def run(self, code: str) -> list[dict[str, Any]]:
        """Run a cell; returns its messages, each with its type."""
        messages: list[dict[str, Any]] = []

        def keep(message: dict[str, Any]) -> None:
            messages.append({"type": message["msg_type"], **message["content"]})

        self.client.execute_interactive(code, timeout=runner.TIMEOUT, output_hook=keep)
        return [each for each in messages if each["type"] not in ("status", "execute_input")]

    def find_error(self, code: str) -> list[str]:
        """Run a cell that fails; returns the lines that it shows."""
        (error,) = (each for each in self.run(code) if each["type"] == "error")
        lines: list[str] = error["traceback"]
        return lines


TRAINING = """
import os, signal
import apercu
import torch
from torch import nn

torch.manual_seed(0)
module = nn.Sequential(
    nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
)
classifier = apercu.open_classifier(module, size=32, classes=["stripes", "dots", "rings"])
steps = []

def stop_once(name, done, total):
    if name == "training steps":
        steps.append(done)
        if steps.count(12) == 1 and done == 12:
            os.kill(os.getpid(), signal.SIGINT)

def train(resume):
    config = {"schedule": {"steps": 20, "batch": 4, "save_every": 5, "side": 32}}
    return apercu.train(
        classifier, "planted:images=24,classes=3,size=32", "run", config=config, resume=resume,
        report=stop_once, say=lambda line: None, workers=0,
    )
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    settings, folder = (tmp_path_factory.mktemp(name) for name in ("ipython", "work"))
    environment = {**os.environ, "IPYTHONDIR": str(settings), "JUPYTER_PLATFORM_DIRS": "1"}
    manager, client = start_new_kernel(
        kernel_name="python3", env=environment, cwd=str(folder), startup_timeout=runner.TIMEOUT
    )
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy()


class TestKernel:
    def test_an_error_is_one_line_and_can_be_caught(self, kernel: Kernel) -> None:
        lines = kernel.find_error("import apercu\n\napercu.open_images('nowhere')")
        (line,) = lines
        assert re.fullmatch(
            r"ImagesError \(Cell In\[\d+\], line 3\): nowhere: no such file or folder of images",
            line,
        )
        caught = "try:\n    apercu.open_images('nowhere')\nexcept apercu.InputError as error:\n"
        (output,) = kernel.run(f"{caught}    print(type(error).__name__, error.exit_code)")
        assert output["text"] == "ImagesError 2\n"

    def test_the_traceback_can_be_brought_back(self, kernel: Kernel) -> None:
        kernel.run("import apercu\n%xmode Verbose")
        lines = kernel.find_error("apercu.open_images('nowhere')")
        assert "opening.py" in "\n".join(lines)
        kernel.run("%xmode Context")
        assert len(kernel.find_error("apercu.open_images('nowhere')")) == 1

    def test_progress_is_one_bar(self, kernel: Kernel) -> None:
        outputs = kernel.run(
            "import time\nfrom apercu.progress import show_progress\n"
            "with show_progress(lines=True) as report:\n    for done in range(1, 31):\n"
            "        report('images', done, 30)\n        time.sleep(0.06)\n"
            "    report('short work', 1, 1)"
        )
        kinds = [each["type"] for each in outputs]
        assert kinds[0] == "display_data" and set(kinds[1:]) == {"update_display_data"}
        assert 2 <= len(kinds) <= 5
        first, last = outputs[0]["data"], outputs[-1]["data"]
        assert re.search(r'<progress value="\d+" max="30">', first["text/html"])
        assert re.match(r"images: \d+ of 30 \(\d+ %\), ", first["text/plain"])
        assert re.fullmatch(r"images: 30, in \d+ s", last["text/plain"])
        assert "<progress" not in last["text/html"]

    def test_an_interrupted_training_goes_on_in_the_same_kernel(self, kernel: Kernel) -> None:
        assert kernel.run(TRAINING) == []
        (line,) = kernel.find_error("train(resume=False)")
        assert re.fullmatch(
            r"WorkInterrupted \(Cell In\[\d+\], line \d+\): interrupted; run keeps what is done; "
            "the same call with resume=True goes on",
            line,
        )
        (output,) = kernel.run("explainer = train(resume=True)\nprint(steps[-1], min(steps[12:]))")
        assert output["text"] == "20 10\n"  # the last state before was that of step 10
        lines = kernel.find_error(
            "os.kill(os.getpid(), signal.SIGINT)\nfor _ in range(10**9): pass"
        )
        assert "KeyboardInterrupt" in "".join(lines)
        (shown,) = kernel.run("explainer")
        assert "Mask explainer of " in shown["data"]["text/html"]
