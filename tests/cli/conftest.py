from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from apercu.cli import main
from apercu.explainers.kind import LOOKS_TRAINED
from apercu.explainers.run_folder import FACTS
from apercu.io import HASHES, write_hashes


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def apercu(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a command line in this process."""

    def run(*words: str | Path) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        result = capsys.readouterr()
        code = stop.value.code
        return Ended(code if isinstance(code, int) else 1, result.out, result.err)

    return run


@pytest.fixture(scope="session")
def quiet_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_run`, of which nothing says that it does not look trained."""
    run = tmp_path_factory.mktemp("quiet") / tiny_run.name
    shutil.copytree(tiny_run, run)
    facts = json.loads((run / FACTS).read_text())
    (run / FACTS).write_text(json.dumps(facts | {LOOKS_TRAINED: 1.0}))
    write_hashes(run, json.loads((run / HASHES).read_text()))
    return run
