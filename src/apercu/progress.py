"""How far long work is: a bar on a terminal and in a notebook, lines in other places."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from threading import Event, Lock, Thread
from typing import TypeAlias

ProgressCallback: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of the work, how much of it is done, and how much there is: 0 if unknown."""
CountCallback: TypeAlias = Callable[[int, int], None]
"""Called with how much is done, and how much there is."""
ProgressOption: TypeAlias = ProgressCallback | bool | None
"""What the caller of a function gives as `progress`: a function that receives it, or whether a bar
is shown on a terminal or in a notebook, and lines elsewhere; None shows a bar in notebooks only."""

FIRST_LINE = 5.0
"""Seconds of a piece of work before its first line."""
LINE_EVERY = 30.0
"""Seconds between two lines."""
BAR_AFTER, BAR_EVERY = 1.0, 0.5
"""Seconds of a piece of work before a notebook shows it, and between two changes of its bar."""


def ignore_progress(name: str, done: int, total: int) -> None:
    """Do nothing, where no progress is shown."""


@dataclass
class WorkProgress:
    """How far one piece of work is.

    Args:
        name: the name of the work.
        done: how much of it was done when it began; more than 0 where it is continued.
        total: how much there is; 0 if unknown.
        begun: when it began, in seconds of a monotonic clock.
    """

    name: str
    done: int
    total: int
    begun: float
    first_done: int = field(init=False)

    def __post_init__(self) -> None:
        self.first_done = self.done

    @property
    def finished(self) -> bool:
        """Whether all of it is done."""
        return 0 < self.total <= self.done

    def describe(self, now: float) -> str:
        """Return one line: how much is done, and how long the rest will take.

        Args:
            now: the present time, in seconds of the same clock.

        Returns:
            The line.

        >>> WorkProgress("images", 0, 8, begun=0.0).describe(12.0)
        'images: 0 of 8, 12 s so far'
        >>> work = WorkProgress("images", 2, 8, begun=0.0)
        >>> work.done = 4
        >>> work.describe(60.0)
        'images: 4 of 8 (50 %), 60 s so far, about 2.0 min left'
        """
        seconds, fresh = now - self.begun, self.done - self.first_done
        if not self.total:
            return f"{self.name}: {self.done}, {format_seconds(seconds)} so far"
        line = f"{self.name}: {self.done} of {self.total}"
        if self.done:
            line += f" ({100 * self.done // self.total} %)"
        line += f", {format_seconds(seconds)} so far"
        if fresh > 0:
            left = seconds / fresh * (self.total - self.done)
            line += f", about {format_seconds(left)} left"
        return line


def format_seconds(seconds: float) -> str:
    """Return a time for people.

    >>> format_seconds(4.2), format_seconds(200.0), format_seconds(9000.0)
    ('4 s', '3.3 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class ProgressLines:
    """Writes lines about the work that is going on, also while a long part of it is silent.

    Args:
        write: receives one line.
        final_lines: whether short work gets a line, too, when it is done.
        first_line: seconds of a piece of work before its first line.
        line_every: seconds between two lines.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        final_lines: bool = False,
        first_line: float = FIRST_LINE,
        line_every: float = LINE_EVERY,
    ) -> None:
        self.write, self.final_lines = write, final_lines
        self.first_line, self.line_every = first_line, line_every
        self._work: WorkProgress | None = None
        self._due = 0.0
        self._lock, self._stop = Lock(), Event()
        self._thread: Thread | None = None

    def report(self, name: str, done: int, total: int) -> None:
        """Note how far some work is; its end gets a line if it took long."""
        with self._lock:
            now, work = time.monotonic(), self._work
            if work is None or work.name != name:
                self._work = work = WorkProgress(name, done, total, now)
                self._due = now + self.first_line
            work.done, work.total = done, total
            if work.finished:
                self._work = None
                seconds = now - work.begun
                if seconds >= self.first_line:
                    self.write(f"{name}: {done} of {total}, in {format_seconds(seconds)}")
                elif self.final_lines:
                    self.write(f"{name}: {done} of {total}")
        if self._thread is None:
            self._thread = Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write no more lines, and wait for the thread that writes them."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        pause = max(0.01, min(1.0, self.line_every / 4, self.first_line / 4))
        while not self._stop.wait(pause):
            with self._lock:
                now = time.monotonic()
                if self._work is not None and now >= self._due:
                    self._due = now + self.line_every
                    self.write(self._work.describe(now))


class NotebookBar:
    """Shows in a notebook how far the work is: one bar, which is changed where it stands.

    In the end it is replaced by a line for each piece of work that took long.
    """

    def __init__(self) -> None:
        self._display_id = ""
        self._work: WorkProgress | None = None
        self._due = 0.0
        self._finished: list[str] = []

    def report(self, name: str, done: int, total: int) -> None:
        """Note how far some work is, and change the bar if it is time."""
        now, work = time.monotonic(), self._work
        if work is None or work.name != name:
            self._work = work = WorkProgress(name, done, total, now)
            self._due = now + BAR_AFTER
        work.done, work.total = done, total
        if work.finished:
            if now - work.begun >= BAR_AFTER:
                self._finished.append(f"{name}: {total}, in {format_seconds(now - work.begun)}")
            self._work = None
        elif now >= self._due:
            self._due = now + BAR_EVERY
            value = f' value="{done}" max="{total}"' if total else ""
            self._show(f"<progress{value}></progress> ", work.describe(now))

    def close(self) -> None:
        """Replace the bar by what was done, and by what was begun last if it is not finished."""
        lines = list(self._finished)
        if self._work is not None and self._display_id:
            lines.append(self._work.describe(time.monotonic()))
        if lines:
            self._show("", *lines)

    def _show(self, bar: str, *lines: str) -> None:
        from IPython.display import display, update_display

        text = "<br>".join(map(escape, lines))
        html = f'<small class="apercu-progress">{bar}{text}</small>'
        bundle = {"text/plain": "\n".join(lines), "text/html": html}
        if self._display_id:
            update_display(bundle, raw=True, display_id=self._display_id)
        else:
            self._display_id = uuid.uuid4().hex
            display(bundle, raw=True, display_id=self._display_id)


def is_notebook() -> bool:
    """Return whether a notebook runs this code."""
    if "IPython" not in sys.modules:
        return False
    return getattr(sys.modules["IPython"].get_ipython(), "kernel", None) is not None


def name_progress(count: CountCallback | bool | None) -> ProgressOption:
    """Return a `ProgressCallback` that calls a function of two numbers, without the name.

    Args:
        count: called with how much is done, and how much there is; or one of the other values of a
            `ProgressOption`, which are returned.

    Returns:
        The function, or what was given.
    """
    if not callable(count):
        return count

    def report(name: str, done: int, total: int) -> None:
        count(done, total)

    return report


@contextmanager
def open_progress(progress: ProgressOption) -> Iterator[ProgressCallback]:
    """Show the progress of a call in Python as its caller wants.

    Args:
        progress: a function that receives it, or whether it is shown; None shows it in notebooks
            only.

    Yields:
        A function that reports the progress.
    """
    if callable(progress):
        yield progress
    elif is_notebook() if progress is None else progress:
        with show_progress() as show:
            yield show
    else:
        yield ignore_progress


@contextmanager
def show_progress(*, lines: bool = False) -> Iterator[ProgressCallback]:
    """Show how far each piece of work is: a bar on a terminal or in a notebook, else lines.

    Args:
        lines: whether short work gets a line, too, where there is neither.

    Yields:
        A function that reports the progress.
    """
    if is_notebook():
        bar = NotebookBar()
        try:
            yield bar.report
        finally:
            bar.close()
        return
    if not sys.stderr.isatty():
        reporter = ProgressLines(
            _write_line, final_lines=lines, first_line=FIRST_LINE, line_every=LINE_EVERY
        )
        try:
            yield reporter.report
        finally:
            reporter.close()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),  # names of files may hold brackets
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console, together = Console(stderr=True, emoji=False), sys.stdout.isatty()
    with Bars(*columns, console=console, transient=True, redirect_stdout=together) as bars:
        tasks: dict[str, TaskID] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=done, total=total or None)

        yield report


def _write_line(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
