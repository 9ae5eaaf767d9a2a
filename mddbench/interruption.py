"""Handles the signals that end a command: the first one stops the work, and everything open is then closed properly."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
AT_ONCE = 1.0
"""Signals within this many seconds of the one that stopped the work are taken as the same request."""
PATIENCE = 3
"""This many further signals end the process immediately, because the closing seems to hang."""


class Interruption(KeyboardInterrupt):
    """A signal has stopped the work.

    Attributes:
        number: The number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Listener:
    """The handler of all signals, and its state.

    Attributes:
        stopped_at: The monotonic time at which a signal last stopped the work, in seconds.
        closing: How many `closing` blocks are active.
        ignored: How many later requests have come that did not stop the work.
        held: How many `held` blocks are active.
        pending: The number of a signal that waits for the end of a `held` block; 0 for none.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all signals and blocks."""
        self.stopped_at, self.closing, self.ignored = -AT_ONCE, 0, 0
        self.held, self.pending = 0, 0

    def handle(self, number: int, _: FrameType | None) -> None:
        """Raise Interruption, postpone it, or ignore the signal. End the process at the third that is ignored."""
        now = time.monotonic()
        if self.held and not self.closing and not self.pending:
            self.pending = number
            return
        if not self.held and not self.closing and now - self.stopped_at >= AT_ONCE:
            self.stopped_at = now
            raise Interruption(number)
        if now - self.stopped_at >= AT_ONCE:
            self.ignored += 1
            if self.ignored >= PATIENCE:
                os._exit(128 + number)
        if self.closing:
            os.write(2, b"mddbench: ending; open files and runs are being closed\n")


_listener = _Listener()


@contextmanager
def interruptible(extra: Sequence[str] = ()) -> Iterator[None]:
    """Make SIGINT, SIGTERM, SIGHUP and SIGQUIT raise Interruption inside the `with` block.

    Signals that the process was told to ignore stay ignored, as SIGHUP under nohup.
    Outside the main thread the block has no effect.

    Args:
        extra: Names of further signals that do so, which a system may lack.

    Yields:
        Nothing. The work is done inside the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _listener.reset()
    numbers = [*_numbers().values(), *(getattr(signal, name) for name in extra if hasattr(signal, name))]
    handlers = {number: signal.getsignal(number) for number in numbers}
    replaced = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in replaced:
        signal.signal(number, _listener.handle)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def ignore_all_but_sigterm() -> None:
    """Ignore the signals of NAMES except SIGTERM. A child process calls this once at its start.

    A signal that ends a command reaches all its processes, and only the parent process acts on it.
    The parent ends its child processes by SIGTERM. Signals that `blocking_all_but_sigterm` held back are discarded.
    """
    numbers = [number for name, number in _numbers().items() if name != "SIGTERM"]
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


@contextmanager
def blocking_all_but_sigterm() -> Iterator[None]:
    """Block the signals of NAMES except SIGTERM while a child process is started.

    The child gets none of them until it calls `ignore_all_but_sigterm`. In this process they wait for the block's end.

    Yields:
        Nothing. The child process is started inside the block.
    """
    numbers = [number for name, number in _numbers().items() if name != "SIGTERM"]
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def _numbers() -> dict[str, signal.Signals]:
    """The signals of NAMES that this system has."""
    return {name: getattr(signal, name) for name in NAMES if hasattr(signal, name)}


@contextmanager
def held() -> Iterator[None]:
    """Make signals wait for the end of the `with` block: for short work that must not be cut off.

    PATIENCE further signals end the process. In another thread than the main one the block has no effect, since
    signals do not reach it.

    Yields:
        Nothing. The work is done inside the block.

    Raises:
        Interruption: At the end of the block, if a signal came inside it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _listener.held += 1
    try:
        yield
    finally:
        _listener.held -= 1
        number = 0 if _listener.held or _listener.closing else _listener.pending
        if number:
            _listener.pending, _listener.stopped_at = 0, time.monotonic()
            raise Interruption(number)


@contextmanager
def closing() -> Iterator[None]:
    """Ignore signals inside the `with` block, so that everything open is closed completely.

    PATIENCE signals end a process that hangs.

    Yields:
        Nothing. Things are closed inside the block.
    """
    _listener.closing += 1
    try:
        yield
    finally:
        _listener.closing -= 1
