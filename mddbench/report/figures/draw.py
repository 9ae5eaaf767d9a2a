"""Draws a report's pictures, in several processes if they are asked for and pictures are enough for them to pay."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from mddbench.errors import InputError
from mddbench.interruption import ignore_all_but_sigterm
from mddbench.machine import processor_count
from mddbench.progress import Reporter, Task
from mddbench.report.figures.sheet import Draw

MOST_PROCESSES = 4
"""Each takes some 150 MB beside the pictures' own data."""
A_PROCESS = 4
"""A process takes about as long to start as so many pictures take to draw."""


def processes_to_use() -> int:
    """Processes to draw in: the processors that this process may use, but few."""
    return min(processor_count(), MOST_PROCESSES)


def draw_all(pictures: Mapping[Path, Draw], out: Path, processes: int, reporter: Reporter) -> None:
    """Draw each picture below `out`, in the place of what an earlier report drew there.

    What a lost process leaves is drawn here. A picture that cannot be drawn is told and left out. Raises InputError for what it
    shows and cannot be loaded, OSError for what cannot be written.
    """
    for name in pictures:
        for earlier in (out / name, (out / name).with_suffix(".pdf")):
            earlier.unlink(missing_ok=True)
    left, processes = dict(pictures), min(processes, len(pictures) // A_PROCESS)
    with reporter.task("drawing", len(pictures)) as task:
        if processes > 1:
            try:
                _draw_elsewhere(left, out, processes, task, reporter)
            except _NoProcessesError as fault:
                reporter.say(f"drawing here what is left, {len(left)} of {len(pictures)} pictures: {fault}")
        for name, draw in left.items():
            with _one_picture(name, reporter):
                draw(out / name)
            task.advance(1)


@contextmanager
def _one_picture(name: Path, reporter: Reporter) -> Iterator[None]:
    """Inside one picture is drawn: numbers that no axis can show cost no other picture."""
    try:
        yield
    except (OSError, InputError, BrokenProcessPool):
        raise
    except Exception as fault:
        reason = str(fault).splitlines()[0][:120] if str(fault) else "no message"
        reporter.say(f"{name}: not drawn ({type(fault).__name__}: {reason})")


class _NoProcessesError(Exception):
    """Processes cannot be had, or one of them has ended."""


def _draw_elsewhere(left: dict[Path, Draw], out: Path, processes: int, task: Task, reporter: Reporter) -> None:
    """Draw the pictures in processes and take from `left` what is done. Each picture's data is loaded here, and few at a time
    wait for a process. Raises _NoProcessesError with the reason.
    """
    try:
        pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin)
    except (OSError, NotImplementedError) as fault:  # a system without semaphores
        raise _NoProcessesError(f"no process can be started ({fault})") from None
    waiting: dict[Future[None], Path] = {}

    def collect() -> None:
        for done in wait(waiting, return_when=FIRST_COMPLETED).done:
            name = waiting.pop(done)
            with _one_picture(name, reporter):
                done.result()
            del left[name]
            task.advance(1)

    try:
        for name, draw in list(left.items()):
            waiting[pool.submit(_draw, pickle.dumps(draw), out / name)] = name
            if len(waiting) > 2 * processes:
                collect()
        while waiting:
            collect()
    except BrokenProcessPool:
        raise _NoProcessesError("a process ended before it was done") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _draw(pickled: bytes, file: Path) -> None:
    draw: Draw = pickle.loads(pickled)  # noqa: S301 - from the process that started this one
    draw(file)


def _begin() -> None:
    """No process outlives the first, however that ends."""
    ignore_all_but_sigterm()
    Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    first = parent_process()
    if first is not None:
        first.join()
        os._exit(1)
