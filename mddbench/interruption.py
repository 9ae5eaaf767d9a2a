"""Signals that end a command: the first one stops the work, and what was begun is then closed in peace."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
AT_ONCE = 1.0
"""Signals that come within so many seconds of the one that stopped the work are the same wish."""
PATIENCE = 3
"""So many more while things are being closed end the process where it is: the closing hangs."""


class Interruption(KeyboardInterrupt):
    """The work was stopped by a signal. number: the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Listener:
    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Nothing has been heard yet."""
        self.stopped, self.closing, self.waiting = -AT_ONCE, 0, 0
        self.held, self.pending = 0, 0

    def hear(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.held and not self.closing and not self.pending:
            self.pending = number
            return
        if not self.held and not self.closing and now - self.stopped >= AT_ONCE:
            self.stopped = now
            raise Interruption(number)
        self.waiting += 1
        if self.waiting >= PATIENCE:
            os._exit(128 + number)
        if self.closing:
            os.write(2, b"mddbench: ending; what was begun is being closed\n")


_listener = _Listener()


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT, SIGTERM, SIGHUP and SIGQUIT raise Interruption; those that the process was told to ignore are ignored
    (as SIGHUP under nohup). Without effect outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _listener.begin()
    before = {number: signal.getsignal(number) for number in _numbers().values()}
    heard = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in heard:
        signal.signal(number, _listener.hear)
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def leave_to_the_first() -> None:
    """In a process that another one started: what ends a command reaches all its processes, and only the first acts on it. The
    first one ends the others by SIGTERM. Take in what `starting_another` held back.
    """
    numbers = [number for name, number in _numbers().items() if name != "SIGTERM"]
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


@contextmanager
def starting_another() -> Iterator[None]:
    """A process that is started inside hears no signal but SIGTERM until it calls `leave_to_the_first`; here they wait."""
    numbers = [number for name, number in _numbers().items() if name != "SIGTERM"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _numbers() -> dict[str, signal.Signals]:
    return {name: getattr(signal, name) for name in NAMES if hasattr(signal, name)}


@contextmanager
def held() -> Iterator[None]:
    """Inside, a signal waits until the end: for short work that must not be cut. A few more of them end the process."""
    _listener.held += 1
    try:
        yield
    finally:
        _listener.held -= 1
        number = 0 if _listener.held or _listener.closing else _listener.pending
        if number:
            _listener.pending, _listener.stopped = 0, time.monotonic()
            raise Interruption(number)


@contextmanager
def closing() -> Iterator[None]:
    """Inside, signals no longer interrupt: what is being closed is closed. A few more of them end a process that hangs."""
    _listener.closing += 1
    try:
        yield
    finally:
        _listener.closing -= 1
