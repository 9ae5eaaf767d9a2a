"""Progress for people: a bar on a terminal, a line now and then elsewhere, nothing when asked to be quiet. All to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

WARNING = "warning: "
"""How a line begins that is to be said once, whichever experiment, cell or process says it."""


class Task(Protocol):
    """One slow thing in progress."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report `steps` more of the total; `note` replaces what stands behind the bar."""


class Reporter(Protocol):
    """Where progress and messages go."""

    def task(self, label: str, total: int) -> Any:
        """A context manager that yields a Task."""

    def say(self, message: str) -> None:
        """One line for the reader, now; a WARNING only if it has not been said before."""


class _Silent:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


class SilentReporter:
    """Says nothing."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        yield _Silent()

    def say(self, message: str) -> None:
        pass


class _Warned:
    """Remembers which warnings have been said."""

    def __init__(self) -> None:
        self.warned: set[str] = set()

    def is_new(self, message: str) -> bool:
        """Whether a line is to be said."""
        if not message.startswith(WARNING):
            return True
        new = message not in self.warned
        self.warned.add(message)
        return new


class _Lines:
    def __init__(self, label: str, total: int, interval: float) -> None:
        self.label, self.total, self.interval = label, total, interval
        self.done, self.note = 0, ""
        self.started = self.spoken = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        self.note = note or self.note
        if time.monotonic() - self.spoken >= self.interval and self.done < self.total:
            self.speak()

    def speak(self) -> None:
        self.spoken = time.monotonic()
        seconds = self.spoken - self.started
        print(f"{self.label}: {self.done}/{self.total} {self.note} [{seconds:.0f} s]", file=sys.stderr, flush=True)


class LineReporter(_Warned):
    """A line every `interval` seconds and one at the end of each task; for logs and pipes."""

    def __init__(self, interval: float = 10.0) -> None:
        super().__init__()
        self.interval = interval

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        lines = _Lines(label, total, self.interval)
        yield lines
        lines.speak()

    def say(self, message: str) -> None:
        if self.is_new(message):
            print(message, file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, progress: Any, identity: Any) -> None:
        self.progress, self.identity = progress, identity

    def advance(self, steps: int = 1, note: str = "") -> None:
        if note:
            self.progress.update(self.identity, note=note)
        self.progress.advance(self.identity, steps)


class BarReporter(_Warned):
    """Rich's progress bar with time gone and time left."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
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
        if self.is_new(message):
            self.console.print(message, markup=False, soft_wrap=True)


def reporter(quiet: bool = False) -> Reporter:
    """The reporter that fits stderr."""
    if quiet:
        return SilentReporter()
    return BarReporter() if sys.stderr.isatty() else LineReporter()
