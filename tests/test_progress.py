"""How far long work is, in a log file and on a terminal."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable

import pytest

from apercu import progress
from apercu.progress import ProgressLines, show_progress


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_line_comes_again_and_again_while_one_part_is_silent() -> None:
    lines: list[str] = []
    reporter = ProgressLines(lines.append, first_line=0.02, line_every=0.02)
    reporter.report("student steps", 0, 8)
    reporter.report("student steps", 2, 8)
    _wait_for(lambda: len(lines) >= 2)
    reporter.report("student steps", 8, 8)
    reporter.close()
    line = r"student steps: 2 of 8 \(25 %\), 0 s so far, about 0 s left"
    assert all(re.fullmatch(line, text) for text in lines[:-1]), lines
    assert re.fullmatch(r"student steps: 8 of 8, in \d+ s", lines[-1])


def test_short_work_is_silent_unless_its_end_is_asked_for() -> None:
    for final_lines, expected in ((False, []), (True, ["images: 3 of 3"])):
        lines: list[str] = []
        reporter = ProgressLines(lines.append, final_lines=final_lines)
        for done in range(4):
            reporter.report("images", done, 3)
        reporter.close()
        assert lines == expected


def test_nothing_is_written_after_the_end() -> None:
    lines: list[str] = []
    reporter = ProgressLines(lines.append, first_line=0.01, line_every=0.01)
    reporter.report("frames", 7, 0)
    _wait_for(lambda: lines)
    reporter.close()
    count = len(lines)
    time.sleep(0.05)
    assert len(lines) == count
    assert lines[0] == "frames: 7, 0 s so far"


def test_work_that_is_continued_is_estimated_by_what_was_done_now() -> None:
    work = progress.WorkProgress("training steps", 900, 1000, begun=0.0)
    work.done = 950
    assert work.describe(300.0).endswith("(95 %), 5.0 min so far, about 5.0 min left")


def test_a_terminal_gets_a_bar_and_a_log_file_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress(lines=True) as report:
        report("images", 2, 2)
    assert capsys.readouterr().err == "images: 2 of 2\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with show_progress() as report:
        report("training steps", 1, 2)
        report("training steps", 2, 2)
    assert re.search(r"training steps.*2/2", capsys.readouterr().err)
    with show_progress() as report:  # a name of a folder is no markup
        report("reading a[bold]b[/] :cat:", 1, 1)
    assert re.search(r"reading a\[bold\]b\[/\] :cat:.*1/1", capsys.readouterr().err)


def test_the_caller_of_a_function_chooses_how_its_progress_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    calls: list[tuple[str, int, int]] = []
    with progress.open_progress(lambda *done: calls.append(done)) as report:
        report("images", 1, 2)
    assert calls == [("images", 1, 2)]
    for silent in (None, False):
        with progress.open_progress(silent) as report:
            report("images", 2, 2)
        assert capsys.readouterr().err == ""
    with progress.open_progress(True) as report:
        report("images", 1, 4)
    assert re.search(r"images.*1/4", capsys.readouterr().err)
    counts: list[tuple[int, int]] = []
    with progress.open_progress(
        progress.name_progress(lambda *done: counts.append(done))
    ) as report:
        report("frames", 3, 4)
    assert counts == [(3, 4)]
    assert progress.name_progress(False) is False and progress.name_progress(None) is None
