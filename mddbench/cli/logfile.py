"""The log of the commands that run cells: all lines that they say, with the time, also in quiet mode."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime
from pathlib import Path

from mddbench.progress import Reporter, Telling

LOG = "run.log"
"""Name of the log in the output folder."""


class LogFile:
    """A file to which lines are added.

    Attributes:
        file: The file.
        works: False if it could not be written, which is said once and costs nothing else.
    """

    def __init__(self, file: Path) -> None:
        """Begin with the first line, not before, so that a command that is refused leaves nothing."""
        self.file, self.works, self.begun = file, True, False

    def add(self, message: str) -> None:
        """Add a line, with the time. The first one has the command before it."""
        lines = [message] if self.begun else [shlex.join(["mddbench", *sys.argv[1:]]), message]
        self.begun, time = True, f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z}"
        if not self.works:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8", errors="backslashreplace") as opened:
                opened.write("".join(f"{time} {line}\n" for line in lines))
        except OSError as fault:
            self.works = False
            print(f"mddbench: {self.file}: the log is not written ({fault.strerror})", file=sys.stderr)


def logged(progress: Reporter, out: Path) -> Reporter:
    """Let what a reporter says be added to the log of an output folder.

    Args:
        progress: The reporter.
        out: Output folder.

    Returns:
        A reporter that says the same.
    """
    return Telling(progress, LogFile(out / LOG).add)
