"""How a command ends if it is interrupted, or if nobody reads its output any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from mddbench.interruption import Interruption, interruptible


class ReportedExit(SystemExit):
    """The end of a command that has already said why it ends."""


@contextmanager
def reported_interruptions(force: bool, extra: Sequence[str] = ()) -> Iterator[None]:
    """Report an interruption, and end the command with the exit status of its signal (128 and its number).

    Args:
        force: True if the run repeats finished cells, so that the same command would not resume it.
        extra: Names of further signals that interrupt, such as SIGUSR2, which clusters send before a time limit.

    Yields:
        Nothing.

    Raises:
        ReportedExit: If the block is interrupted.
    """
    consequence = "what had finished before is kept" if force else "the same command goes on where it stopped"
    try:
        with interruptible(extra):
            yield
    except Interruption as interruption:
        print(f"mddbench: interrupted; {consequence}", file=sys.stderr)
        raise ReportedExit(128 + interruption.number) from None


def leave_quietly() -> NoReturn:
    """End like a program that SIGPIPE stops (exit status 141), without errors while the process closes its streams."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with suppress(OSError, ValueError):
                os.dup2(devnull, stream.fileno())
    sys.exit(141)
