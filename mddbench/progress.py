"""Progress reports for people, on stderr.

On a terminal there is a progress bar, elsewhere a line from time to time. In quiet mode there is nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

WARNING = "warning: "
"""The start of a line that is printed once only, whichever experiment, cell or process reports it."""


class Task(Protocol):
    """A slow task in progress."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report progress of the task.

        Args:
            steps: How many more steps of the total are done.
            note: The text behind the bar. '' keeps the present text.
        """


class Reporter(Protocol):
    """The receiver of progress and messages."""

    def task(self, label: str, total: int | None) -> Any:
        """Begin a task.

        Args:
            label: The name of the task, as it is shown.
            total: The number of steps; None if it is not known.

        Returns:
            A context manager that yields a Task.
        """

    def say(self, message: str) -> None:
        """Print one line at once. A line that begins with WARNING is printed the first time only.

        Args:
            message: The line, without a newline at its end.
        """


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


class SilentReporter:
    """A reporter that prints nothing."""

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Task]:
        """Yield a task that prints nothing."""
        yield _SilentTask()

    def say(self, message: str) -> None:
        """Print nothing."""


class Telling:
    """A reporter whose lines another listener gets, too.

    Attributes:
        reporter: The reporter.
        also: Called with each line.
    """

    def __init__(self, reporter: Reporter, also: Callable[[str], object]) -> None:
        self.reporter, self.also = reporter, also

    def task(self, label: str, total: int | None) -> Any:
        """Begin a task of the reporter."""
        return self.reporter.task(label, total)

    def say(self, message: str) -> None:
        """Print one line, and tell it to the listener."""
        self.reporter.say(message)
        self.also(message)


class _WarningFilter:
    """Remembers which warnings were printed."""

    def __init__(self) -> None:
        self.printed_warnings: set[str] = set()

    def is_new(self, message: str) -> bool:
        """Return True unless the message is a warning that was printed before."""
        if not message.startswith(WARNING):
            return True
        is_new = message not in self.printed_warnings
        self.printed_warnings.add(message)
        return is_new


class _Lines:
    """A task that prints lines, at most one per `interval` seconds."""

    def __init__(self, label: str, total: int | None, interval: float) -> None:
        self.label, self.total, self.interval = label, total, interval
        self.done, self.note = 0, ""
        self.started_at = self.printed_at = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        self.note = note or self.note
        if time.monotonic() - self.printed_at >= self.interval and self.done != self.total:
            self.print_line()

    def print_line(self) -> None:
        self.printed_at = time.monotonic()
        seconds = self.printed_at - self.started_at
        done = self.done if self.total is None else f"{self.done}/{self.total}"
        print(f"{self.label}: {done} {self.note} [{seconds:.0f} s]", file=sys.stderr, flush=True)


class LineReporter(_WarningFilter):
    """A reporter for logs and pipes: a line every `interval` seconds, and one at the end of each task.

    Attributes:
        interval: The shortest time between two lines of a task, in seconds.
    """

    def __init__(self, interval: float = 10.0) -> None:
        super().__init__()
        self.interval = interval

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Task]:
        """Yield a task that prints lines. The last line is printed only if the task ends without an exception."""
        lines = _Lines(label, total, self.interval)
        yield lines
        lines.print_line()

    def say(self, message: str) -> None:
        """Print one line, unless it is a warning that was printed before."""
        if self.is_new(message):
            print(message, file=sys.stderr, flush=True)


class _Bar:
    """A task that moves one of rich's progress bars."""

    def __init__(self, progress: Any, identity: Any) -> None:
        self.progress, self.identity = progress, identity

    def advance(self, steps: int = 1, note: str = "") -> None:
        if note:
            self.progress.update(self.identity, note=note)
        self.progress.advance(self.identity, steps)


class BarReporter(_WarningFilter):
    """A reporter for terminals: rich's progress bar with the elapsed and the remaining time.

    Attributes:
        console: Rich's console on stderr.
    """

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Task]:
        """Yield a task that moves a progress bar."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = ("{task.description}", BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(
            *columns, "left", TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self.console
        ) as bars:
            yield _Bar(bars, bars.add_task(label, total=total, note=""))

    def say(self, message: str) -> None:
        """Print one line, unless it is a warning that was printed before."""
        if self.is_new(message):
            self.console.print(message, markup=False, soft_wrap=True)


def reporter(quiet: bool = False) -> Reporter:
    """Choose the reporter that suits stderr.

    Args:
        quiet: True for a reporter that prints nothing.

    Returns:
        A BarReporter if stderr is a terminal, otherwise a LineReporter; a SilentReporter in quiet mode.
    """
    if quiet:
        return SilentReporter()
    return BarReporter() if sys.stderr.isatty() else LineReporter()
