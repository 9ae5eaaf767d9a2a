"""SIGKILL at random moments of a grid: are all records as if nothing had happened, and is each cell logged once?

Run: python benchmarks/random_kills.py [--kills 20] [--ways serial jobs slurm] [--seed 0]

The same command is started again after each kill. A grid that is finished is checked, and the next one begins in a new
folder. A kill hits all processes of the command, or one of them. On Slurm it hits one task. The exit status is 1 if a record
differs or is missing, if a cell has not exactly one finished run in MLflow, or if anything half-made is left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from grids import Grid, environment, finished, mddbench, records

from mddbench.runs.events import read_events
from mddbench.runs.records import Record
from mddbench.runs.store import existing_store

EXPERIMENTS = ("folder/rd4ad", "folder/padim")
OPTIONS = ("--set", "epochs=6", "--seeds", "0,1")
MOST_SECONDS = 600
"""The longest that a command may take."""
MOST_START, MOST_EVENTS = 12.0, 12
"""Seconds until a kill that waits for no event; events that a kill waits for."""


@dataclass
class Found:
    """What was found in one way of running.

    Attributes:
        way: The way.
        kills: Number of processes or groups that were killed.
        grids: Number of finished grids.
        cells: Number of cells that were checked.
        moments: What had happened last when a kill came -> how often.
        faults: A line for each fault.
    """

    way: str
    kills: int = 0
    grids: int = 0
    cells: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def check(self, out: Path, expected: dict[str, Record]) -> None:
        """Compare the records of a finished grid, its runs in MLflow, and what lies in its folders."""
        self.grids, self.cells = self.grids + 1, self.cells + len(expected)
        found = records(out)
        self.faults += [f"{out.name}: lost {identity}" for identity in set(expected) - set(found)]
        self.faults += [
            f"{out.name}: {identity} differs"
            for identity in set(expected) & set(found)
            if found[identity].deterministic() != expected[identity].deterministic()
        ]
        runs = existing_store(None, out).search("")
        states = Counter((run.data.tags.get("mddbench.identity"), run.info.status) for run in runs)
        self.faults += [
            f"{out.name}: {identity} has {states[identity, 'FINISHED']} finished runs"
            for identity in expected
            if states[identity, "FINISHED"] != 1
        ]
        self.faults += [
            f"{out.name}: a run of {identity} is {state}" for identity, state in states if state == "RUNNING"
        ]
        left = [path for pattern in ("**/*.part", "**/.mlflow-*", "cells/*/checkpoint*") for path in out.glob(pattern)]
        left += [folder for folder in out.glob("cells/*-*") if not (folder / "gallery.png").exists()]
        self.faults += [f"{out.name}: half-made {path.relative_to(out)}" for path in left]

    def note(self, out: Path) -> None:
        """Note what has happened last to the cell with the newest event."""
        self.kills += 1
        last = [events[-1] for folder in out.glob("cells/*-*") if (events := read_events(folder))]
        self.moments[max(last, key=lambda event: event.when).kind if last else "nothing"] += 1


def group_of(leader: int) -> list[int]:
    """The processes of a group."""
    return [pid for pid, text in _processes("stat") if text.rpartition(")")[2].split()[2] == str(leader)]


def processes_with(word: str) -> list[int]:
    """The processes of Slurm's tasks that run parts of a plan."""
    return [pid for pid, text in _processes("cmdline") if word in text.split("\0") and "cell" in text.split("\0")]


def _processes(file: str) -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                yield int(folder.name), (folder / file).read_text(errors="replace")
            except OSError:
                continue


def kill_commands(way: str, grid: Grid, folder: Path, expected: dict[str, Record], kills: int) -> Found:
    """Kill `mddbench run` again and again."""
    found, options = Found(way), ("--jobs", "2") if way == "jobs" else ()
    while found.kills < kills:
        out = folder / f"{way}-{found.grids}"
        while True:
            process = subprocess.Popen(
                grid.run(out, *options), env=environment(), start_new_session=True, stderr=subprocess.DEVNULL
            )
            if found.kills < kills and _wait_for_a_moment(process, out):
                found.note(out)
                _kill(process.pid)
            if process.wait(MOST_SECONDS) == 0:  # a child that died alone ends a run with 1
                break
        found.check(out, expected)
    return found


def _wait_for_a_moment(process: subprocess.Popen[bytes], out: Path) -> bool:
    """Wait for a random moment, and return False if the process has ended before.

    Every second time it is one after a random number of new events, since a process spends most of its time before the first.
    """
    events = random.choice([0, random.randint(1, MOST_EVENTS)])
    enough = _lines(out) + events
    deadline = time.monotonic() + random.uniform(0, 0.5 if events else MOST_START)
    while process.poll() is None:
        if _lines(out) >= enough and time.monotonic() > deadline:
            return True
        if _lines(out) < enough:
            deadline = time.monotonic() + random.uniform(0, 0.5)
        time.sleep(0.02)
    return False


def _lines(out: Path) -> int:
    """The number of events of all cells."""
    return sum(file.read_bytes().count(b"\n") for file in out.glob("cells/*/events.jsonl"))


def _kill(leader: int) -> None:
    """Kill all processes of a group, or one of them."""
    group = group_of(leader)
    for pid in group if random.random() < 0.5 else [random.choice(group)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_tasks(grid: Grid, folder: Path, expected: dict[str, Record], kills: int) -> Found:
    """Kill tasks of an array job on a real Slurm of this machine again and again."""
    from slurm_cluster import running_slurm

    found = Found("slurm")
    with running_slurm(folder / "slurm") as slurm:
        while found.kills < kills:
            out = folder / f"slurm-{found.grids}"
            file = grid.plan(out)
            while finished([*mddbench("submit", str(file)), "--gpus", "0", "--cpus", "1", "--time", "30"]).strip():
                while not slurm.is_empty():
                    time.sleep(random.uniform(0.3, 8) if found.kills < kills else 0.3)
                    tasks = processes_with(str(file))
                    if tasks and found.kills < kills:
                        found.note(out)
                        os.kill(random.choice(tasks), signal.SIGKILL)
            finished([*mddbench("collect", str(file))])
            found.check(out, expected)
    return found


def main() -> None:
    """Kill, check, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ways", nargs="+", default=["serial", "jobs", "slurm"], choices=["serial", "jobs", "slurm"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    faults = []
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        grid = Grid(Path(name), EXPERIMENTS, *OPTIONS)
        finished(grid.run(Path(name) / "undisturbed", "--tracking", "none"))
        expected = records(Path(name) / "undisturbed")
        for way in arguments.ways:
            found = (
                kill_tasks(grid, Path(name), expected, arguments.kills)
                if way == "slurm"
                else kill_commands(way, grid, Path(name), expected, arguments.kills)
            )
            moments = ", ".join(f"{count} after {kind}" for kind, count in found.moments.most_common())
            print(
                f"{way}: {found.kills} kills ({moments}), {found.grids} grids, {found.cells} cells checked", flush=True
            )
            print(
                "\n".join(found.faults) or "  all records equal, none lost, each logged once, nothing left", flush=True
            )
            faults += found.faults
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
