"""Several cells at once: the same results, one writer of the store, and what becomes of a process that dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mddbench.engine.cost import TIMES
from mddbench.errors import InputError
from mddbench.execution.jobs import Jobs, Share, chains, shares
from mddbench.execution.plan import RunOptions, check_cells, plan
from mddbench.execution.runner import Outcome, Runner
from mddbench.interruption import interruptible
from mddbench.progress import SilentReporter
from mddbench.runs.records import RECORD, Record, read_record
from mddbench.runs.tracking import NoTracker
from support import die_at_seed_1, mddbench_process, write_tree

CPU = torch.device("cpu")
SHORT: dict[str, Any] = {"epochs": 2, "image_size": 64, "batch_size": 4}
ONE_THREAD = [Share(CPU, 2, (), 1)] * 2


class Listener(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


class Ledger(NoTracker):
    """Keeps what is logged, and by which process."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, ...]] = []
        self.writers: set[int] = set()

    def has(self, identity: str, folder: Path) -> bool:
        return False

    def start(self, facts: Any, folder: Path | None) -> Any:
        return LedgerRun(self, facts.name)

    def ended(self, message: str) -> None:
        """For those that break."""


class LedgerRun:
    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger, self.name = ledger, name

    def note(self, *what: str) -> None:
        self.ledger.writers.add(os.getpid())
        self.ledger.logged.append((self.name, *what))

    def epoch(self, log: Any) -> None:
        self.note("epoch", str(log.epoch))

    def finish(self, record: Any, files: list[Path]) -> None:
        self.note("finish")

    def stop(self, status: str, message: str) -> None:
        self.note(status, message)
        self.ledger.ended(message)


@pytest.fixture
def options(tmp_path: Path) -> RunOptions:
    root = write_tree(tmp_path / "tree", train=6)
    return RunOptions(tmp_path / "out", tmp_path / "cache", CPU, data_root=root)


def record_of(outcome: Outcome) -> Record:
    assert outcome.folder is not None, outcome.message
    return read_record(outcome.folder / RECORD)


def prepared(options: RunOptions, *names: str, seeds: tuple[int, ...] = (0,), **changes: Any) -> list[Any]:
    cells = plan(list(names), "named", seeds, {**SHORT, **changes})
    check_cells(cells, options, SilentReporter())
    return cells


def test_the_processors_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 11})
    assert shares(CPU, 2) == [Share(CPU, 2, (2, 3), 2), Share(CPU, 2, (5, 7, 11), 3)]
    assert shares(CPU, 1) == [Share(CPU, 1, (2, 3, 5, 7, 11), 5)]
    with pytest.raises(InputError, match="--jobs 6: expected from 1 to 5"):
        shares(CPU, 6)


def test_cells_that_share_a_training_are_one_chain() -> None:
    cells = [
        *plan(["mini/rd4ad"], "named", (0, 1), {}),
        *plan(["mini/rd4ad"], "named", (0,), {"metrics": "histogram"}),
        *plan(["mini/rd4ad"], "named", (0,), {"setting": "separate"}),
    ]
    assert chains(cells) == [[cells[0], cells[2]], [cells[1]], [cells[3]]]


def test_gpus_are_given_out_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    given = [(str(share.device), share.sharing) for share in shares(torch.device("cuda"), 3)]
    assert given == [("cuda:0", 2), ("cuda:1", 1), ("cuda:0", 2)]
    assert [share.sharing for share in shares(torch.device("cuda"), 2)] == [1, 1]
    named = shares(torch.device("cuda:1"), 2)
    assert [(str(share.device), share.sharing) for share in named] == [("cuda:1", 2), ("cuda:1", 2)]


def test_they_are_the_cells_that_run_one_after_another(options: RunOptions, tmp_path: Path, one_thread: None) -> None:
    """To the last bit, at the same number of threads; logged by this process alone, epoch by epoch; in the order asked for."""
    cells = prepared(options, "folder/rd4ad", seeds=(0, 1, 2))
    ledger, listener = Ledger(), Listener()
    outcomes = Jobs(options, ledger, listener, None, ONE_THREAD).run(cells)
    assert [outcome.cell for outcome in outcomes] == cells
    alone = replace(options, out=tmp_path / "alone")
    datasets = check_cells(cells, alone, SilentReporter())
    by_turns = Runner(alone, datasets, NoTracker(), SilentReporter()).run(cells)
    for found, expected in zip(map(record_of, outcomes), map(record_of, by_turns), strict=True):
        assert found.model_sha256 == expected.model_sha256
        assert found.metrics == expected.metrics
        assert found.identity == expected.identity
        assert found.environment == {**expected.environment, "cells_on_device": 2}
        # What shared its device has no times.
        assert {key for key, value in found.cost.items() if value is None} == set(TIMES)
        assert {log.seconds for log in found.history} == {None}
        assert not {key for key, value in expected.cost.items() if value is None}
    assert ledger.writers == {os.getpid()}
    for cell in cells:
        logged = [rest for name, *rest in ledger.logged if name == cell.name]
        assert logged == [["epoch", "1"], ["epoch", "2"], ["finish"]]


def test_a_process_that_dies_fails_its_cell_only(options: RunOptions) -> None:
    """So does a store that cannot take a run, and one that cannot take that the dead one's ended."""

    class Full(Ledger):
        def start(self, facts: Any, folder: Path | None) -> Any:
            if "seed3" in facts.name:
                raise InputError("the store is full")
            return super().start(facts, folder)

        def ended(self, message: str) -> None:
            raise ConnectionError("the server is gone")

    cells = prepared(options, "folder/rd4ad", seeds=(0, 1, 2, 3))
    ledger, listener = Full(), Listener()
    outcomes = Jobs(options, ledger, listener, die_at_seed_1, ONE_THREAD).run(cells)
    assert any("the server is gone" in said for said in listener.said)
    assert [outcome.status for outcome in outcomes] == ["finished", "failed", "finished", "failed"]
    assert "its process died (exit status 9)" in outcomes[1].message
    assert outcomes[3].message == "the store is full"
    assert [what for name, what, *_ in ledger.logged if name == cells[1].name] == ["epoch", "epoch", "FAILED"]


def test_cells_that_share_a_training_stay_together(options: RunOptions) -> None:
    """They differ in evaluation only: the second takes the first one's model, in whatever process."""
    cells = prepared(options, "folder/rd4ad") + prepared(options, "folder/rd4ad", metrics="histogram")
    cells += prepared(options, "folder/rd4ad", seeds=(1,))
    listener = Listener()
    first, second, other = Jobs(options, NoTracker(), listener, None, ONE_THREAD).run(cells)
    assert [one.status for one in (first, second, other)] == ["finished"] * 3
    assert len([said for said in listener.said if "trained before" in said]) == 1
    models = [record_of(one).model_sha256 for one in (first, second, other)]
    assert models[0] == models[1] != models[2]
    again = Jobs(options, NoTracker(), listener, None, ONE_THREAD).run(cells)
    assert [one.status for one in again] == ["skipped"] * 3
    assert any("seed1: skipped, finished before" in said for said in listener.said)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_processes_and_runs(sent: signal.Signals, options: RunOptions) -> None:
    class Interrupted(Ledger):
        def start(self, facts: Any, folder: Path | None) -> Any:
            if len(self.logged) >= 1:
                signal.raise_signal(sent)
            run = super().start(facts, folder)
            run.note("start")
            return run

    processes = set(multiprocessing.active_children())
    ledger = Interrupted()
    with pytest.raises(KeyboardInterrupt), interruptible():
        Jobs(options, ledger, Listener(), None, ONE_THREAD).run(
            prepared(options, "folder/rd4ad", seeds=(0, 1), epochs=200)
        )
    assert [what for _, what, *_ in ledger.logged if what != "epoch"] == ["start", "KILLED"]
    assert set(multiprocessing.active_children()) <= processes


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="--jobs 2 needs two processors")
def test_jobs_from_the_command_line(fresh_store: Callable[[str], Path]) -> None:
    """A plug-in's method, too: the other processes must know it."""
    out = fresh_store("out")
    plugins = out.parent / "plugins"
    (plugins / "methods").mkdir(parents=True)
    (plugins / "methods" / "twin.py").write_text(
        "from mddbench.baselines.rd4ad import RD4AD\n\n\nclass Twin(RD4AD):\n    label = 'Twin'\n    version = 1\n"
    )
    arguments = ("run", "mini/rd4ad", "--seeds", "0,1", "--jobs", 2, "--set", "epochs=1", "--set", "image_size=64")
    ran = mddbench_process(*arguments, "--set", "method=twin", "--plugins", plugins, "--out", out, "--json")
    assert ran.returncode == 0, ran.stderr
    assert [cell["status"] for cell in json.loads(ran.stdout)] == ["finished", "finished"]
    table = (out / "report" / "mini" / "main.md").read_text()
    assert "| Twin | 2 |" in table  # out of the store, where both have finished
    assert "no times of cells that shared their device" in table
    for file in out.glob("cells/*/record.json"):
        environment = read_record(file).environment
        assert environment["cores"] == environment["threads"] == len(os.sched_getaffinity(0)) // 2
    refused = mddbench_process("run", "mini/rd4ad", "--jobs", 4096, "--out", out)
    assert refused.returncode == 2
    assert "--jobs 4096: expected from 1 to" in refused.stderr
