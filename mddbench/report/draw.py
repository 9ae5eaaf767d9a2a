"""Draws a report's pictures, in several processes if they are asked for and pictures are enough for them to pay."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from mddbench.errors import InputError
from mddbench.report.pictures import Draw

A_PROCESS = 4
"""A process takes about as long to start as so many pictures take to draw."""


def draw_all(pictures: Mapping[Path, Draw], out: Path, processes: int, told: Callable[[], object]) -> None:
    """Draw each picture below `out`, in the place of what an earlier report drew there. told: called after each.

    Raises what drawing a picture raises, and InputError if the system ends one of the processes.
    """
    for name in pictures:
        for earlier in (out / name, (out / name).with_suffix(".pdf")):
            earlier.unlink(missing_ok=True)
    processes = min(processes, len(pictures) // A_PROCESS)
    if processes < 2:
        for name, draw in pictures.items():
            draw(out / name)
            told()
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _leave_interrupts)
    try:
        for drawn in as_completed([pool.submit(draw, out / name) for name, draw in pictures.items()]):
            drawn.result()
            told()
    except BrokenProcessPool:
        raise InputError(
            f"{out}: a process that drew pictures was ended from outside, for want of memory perhaps; the runs are kept, and "
            "`mddbench report` draws again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    """Ctrl-C reaches all processes: the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
