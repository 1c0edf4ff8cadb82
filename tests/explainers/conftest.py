"""The command line, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    from apercu.cli import main

    def run(*words: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        result = capsys.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else 1), result.out + result.err

    return run
