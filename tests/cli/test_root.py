from __future__ import annotations

import errno
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise

import pytest

import apercu as package
from apercu.cli import exit_codes as outcome
from apercu.cli.exit_codes import on_interrupt, run_command
from apercu.errors import FunctionError, OutputError, RunError
from apercu.log import warn

VERBS = (["demo"], ["train", "mask"], ["explain"], ["compare"])
LEAVES = (
    *VERBS,
    *(["train", "counterpart"], ["card"], ["export"], ["serve"], ["ready"], ["video"], ["batch"]),
    *(["stress"], ["stress", "train"], ["stress", "detect"], ["stress", "filter"], ["pretrain"]),
    *(["cutouts"], ["evaluate-features"], ["similar"], ["label"]),
)


def _raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_tells_the_common_options_and_an_example(apercu, verb: list[str]) -> None:
    output = apercu(*verb, "--help")
    assert output.code == 0
    for word in ("--seed", "--device", "--debug", "--out", "Example: apercu " + verb[0]):
        assert word in output.out


@pytest.mark.parametrize("verb", [*LEAVES, []], ids=" ".join)
def test_help_breaks_its_lines_for_the_terminal(monkeypatch, apercu, verb: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = apercu(*verb, "--help").out
    assert "[[" not in text
    assert not re.findall(r"\S*\w… +│", text)  # a word that is cut
    prose = text.partition("╭")[0].split("Usage:")[1]
    for paragraph in re.split(r"\n\s*\n", prose)[1:]:
        lines = paragraph.strip().splitlines()
        for line, after in pairwise(map(str.strip, lines)):
            assert len(line) + 1 + len(after.split()[0]) > 78, (line, after)


def test_the_help_of_a_level_says_what_is_checked(monkeypatch, apercu) -> None:
    """The parser takes 0 and 1, as it always did; the library refuses them."""
    monkeypatch.setenv("COLUMNS", "200")
    for verb in ("explain", "batch"):
        text = " ".join(apercu(verb, "--help").out.replace("│", " ").split())
        assert re.search(r"--level .*?above 0 and below 1", text)


def test_the_version(apercu) -> None:
    assert apercu("--version").out == f"apercu {package.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from apercu.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'pydantic', 'timm', 'lightning'} & set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr == ""
    assert "explain" in ended.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["explian"],
            "error: No such command 'explian'. Did you mean 'explain'?; see apercu --help",
        ),
        (["demo", "--sed", "3"], "error: No such option: --sed"),
        (["train", "mask"], "error: Missing option '--classifier'"),
        (["train"], "error: A command is missing; see apercu train --help"),
        (["demo", "--seed", "-1"], "error: Invalid value for '--seed'"),
        (["demo", "--device", "gpu"], "error: Invalid value for '--device'"),
    ],
)
def test_what_is_mistyped_is_one_line(apercu, words: list[str], line: str) -> None:
    result = apercu(*words)
    assert result.code == 2
    assert result.err.startswith(line)
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RunError("runs/a: is\nbroken"), 2, "error: runs/a: is broken\n"),
        (OutputError("maps: cannot be written"), 2, "error: maps: cannot be written\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: no space left on the disk"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "yyy"), 2, "error: [Errno"),
        (
            RuntimeError("[enforce fail] PytorchStreamWriter failed writing file"),
            2,
            "error: no spa",
        ),
        (ValueError("odd"), 1, "error: ValueError: odd; this should not happen: run again with"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_a_code(capsys, error, code: int, line: str) -> None:
    assert run_command(_raising(error), debug=False) == code
    output = capsys.readouterr().err
    assert output.startswith(line)
    assert output.count("\n") == 1


def test_warnings_and_logs_are_as_before_after_a_command(capsys, caplog) -> None:
    filters = list(warnings.filters)
    assert run_command(lambda: warn("a first line"), debug=False) == 0
    assert capsys.readouterr().err == "warning: a first line\n"
    warn("a second line")
    assert caplog.messages == ["a second line"]
    assert warnings.filters == filters


def test_debug_shows_the_traceback(capsys) -> None:
    assert run_command(_raising(ValueError("odd")), debug=True) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interruption_says_what_is_kept() -> None:
    with (
        pytest.raises(outcome.StoppedError, match="interrupted; all is kept") as stop,
        on_interrupt("all is kept"),
    ):
        raise KeyboardInterrupt
    assert stop.value.exit_code == 130


def test_an_interruption_that_lightning_turned_into_an_exit() -> None:
    with pytest.raises(outcome.StoppedError, match="all is kept"), on_interrupt("all is kept"):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904 (as Lightning does it)


def test_another_exit_stays_an_exit() -> None:
    with pytest.raises(SystemExit, match="3"), on_interrupt("nothing"):
        raise SystemExit(3)


def test_cuda_that_is_not_there(apercu, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = apercu("demo", "--device", "cuda", "--out", tmp_path)
    assert result.code == 2
    assert result.err == ("error: device: no cuda device is available here; use auto or cpu\n")
    assert list(tmp_path.iterdir()) == []


def test_a_function_that_fails_is_one_line_with_what_is_kept(capsys) -> None:
    def command() -> None:
        with on_interrupt("runs/x keeps what was done; continue with --resume"):
            raise FunctionError("classifier a:b: its function failed (OSError: 503)", "try again")

    assert run_command(command, debug=False) == 2
    expected = "error: classifier a:b: its function failed (OSError: 503); runs/x keeps what was"
    assert expected in capsys.readouterr().err
