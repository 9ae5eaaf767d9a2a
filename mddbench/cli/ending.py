"""How a command ends that is interrupted, or whose output nobody reads any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from mddbench.interruption import Interruption, interruptible


class ToldExit(SystemExit):
    """The end of a command that has said why it ends."""


@contextmanager
def told_interruptions(force: bool) -> Iterator[None]:
    """Says what becomes of an interrupted run, and ends with the status that its signal stands for."""
    goes_on = "what had finished before is kept" if force else "the same command goes on where it stopped"
    try:
        with interruptible():
            yield
    except Interruption as ended:
        print(f"mddbench: interrupted; {goes_on}", file=sys.stderr)
        raise ToldExit(128 + ended.number) from None


def leave_quietly() -> NoReturn:
    """End as a program does that is stopped by SIGPIPE; nothing more can be written, also not while the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
    sys.exit(141)
