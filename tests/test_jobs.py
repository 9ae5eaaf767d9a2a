"""Several cells at once: the same results, and what becomes of a process that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mddbench.engine.cost import TIMES
from mddbench.errors import InputError
from mddbench.execution.cells import Cell
from mddbench.execution.frozen import chains, freeze
from mddbench.execution.jobs import PROGRAM, Jobs, Share, shares
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import check_cells, plan
from mddbench.execution.runner import Outcome, Runner
from mddbench.interruption import interruptible
from mddbench.plugins import add_folder, added_folders
from mddbench.progress import Reporter, SilentReporter
from mddbench.runs.events import EVENTS, read_events
from mddbench.runs.leases import standing
from mddbench.runs.panels import PICTURE
from mddbench.runs.records import RECORD, Record, read_record
from mddbench.version import VERSION
from support import mddbench_process, plugins_put_back, write_tree

CPU = torch.device("cpu")
SHORT: dict[str, Any] = {"epochs": 2, "image_size": 64, "batch_size": 4}
KINDS = ["started", "epoch", "epoch", "evaluated", "finished"]
ONE_THREAD = [Share(CPU, 2, (), 1), Share(CPU, 2, tuple(sorted(os.sched_getaffinity(0))), 1)]


class Listener(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def options(tmp_path: Path) -> RunOptions:
    root = write_tree(tmp_path / "tree", train=6)
    return RunOptions(tmp_path / "out", tmp_path / "cache", CPU, data_root=root)


def record_of(outcome: Outcome) -> Record:
    assert outcome.folder is not None, outcome.message
    return read_record(outcome.folder / RECORD)


def planned(options: RunOptions, *names: str, seeds: tuple[int, ...] = (0,), **changes: Any) -> list[Cell]:
    return plan(list(names), "named", seeds, {**SHORT, **changes})


def jobs(options: RunOptions, cells: list[Cell], listener: Reporter) -> list[Outcome]:
    frozen, _ = freeze(cells, options, "cpu", "named", added_folders(), SilentReporter())
    return Jobs(frozen, options.force, listener, ONE_THREAD).run(cells)


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


def test_a_process_takes_no_code_from_the_current_folder(tmp_path: Path) -> None:
    """Its parent, started as a script, does not either: a checkout there may be another version, or lack a part."""
    (tmp_path / "mddbench").mkdir()
    (tmp_path / "mddbench" / "__init__.py").write_text("raise SystemExit('code of the current folder')")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-c", PROGRAM, "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"mddbench {VERSION}"), done.stderr


def test_gpus_are_given_out_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    given = [(str(share.device), share.sharing) for share in shares(torch.device("cuda"), 3)]
    assert given == [("cuda:0", 2), ("cuda:1", 1), ("cuda:0", 2)]
    assert [share.sharing for share in shares(torch.device("cuda"), 2)] == [1, 1]
    named = shares(torch.device("cuda:1"), 2)
    assert [(str(share.device), share.sharing) for share in named] == [("cuda:1", 2), ("cuda:1", 2)]


def test_they_are_the_cells_that_run_one_after_another(options: RunOptions, tmp_path: Path, one_thread: None) -> None:
    """To the last bit, at the same number of threads; in the order asked for. What they did is in their folders."""
    cells = planned(options, "folder/rd4ad", seeds=(0, 1, 2))
    listener = Listener()
    outcomes = jobs(options, cells, listener)
    assert [outcome.cell for outcome in outcomes] == cells
    assert [outcome.status for outcome in outcomes] == ["finished"] * 3, outcomes
    alone = replace(options, out=tmp_path / "alone")
    by_turns = Runner(alone, check_cells(cells, alone, SilentReporter()), SilentReporter()).run(cells)
    for found, expected in zip(map(record_of, outcomes), map(record_of, by_turns), strict=True):
        assert found.model_sha256 == expected.model_sha256
        assert found.metrics == expected.metrics
        assert found.identity == expected.identity
        assert found.environment == {**expected.environment, "cells_on_device": 2}
        # What shared its device has no times.
        assert {key for key, value in found.cost.items() if value is None} == set(TIMES) & set(expected.cost)
        assert {log.seconds for log in found.history} == {None}
        assert not {key for key, value in expected.cost.items() if value is None}
    processes = set()
    for outcome in outcomes:
        assert outcome.folder is not None
        events = read_events(outcome.folder)
        assert [event.kind for event in events if event.kind != "said"] == KINDS
        assert [event.log for event in events if event.log] == record_of(outcome).history
        processes |= {event.process for event in events}
        assert (outcome.folder / "gallery.png").exists()
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert {cell.name for cell in cells} <= set(listener.said)


FATAL = """
import os
from mddbench.baselines.rd4ad import RD4AD

class Fatal(RD4AD):
    label = "Fatal"
    version = 1

    def diagnostics(self):
        os._exit(9)
"""


def test_a_process_that_dies_fails_its_cell_only(options: RunOptions, tmp_path: Path) -> None:
    """Its part goes on with the next cell, which shares a training with it and dies, too; other parts are finished."""
    (tmp_path / "plugins" / "methods").mkdir(parents=True)
    (tmp_path / "plugins" / "methods" / "fatal.py").write_text(FATAL)
    with plugins_put_back():
        add_folder(tmp_path / "plugins")
        cells = planned(options, "folder/rd4ad", seeds=(0,), method="fatal")
        cells += planned(options, "folder/rd4ad", seeds=(0,), method="fatal", metrics="histogram")
        cells += planned(options, "folder/rd4ad", seeds=(0, 1))
        outcomes = jobs(options, cells, Listener())
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "finished", "finished"]
    for outcome in outcomes[:2]:
        assert outcome.message == "its process died (exit status 9); was there enough memory?"
        assert outcome.folder is not None
        events = read_events(outcome.folder)
        assert (events[-1].kind, events[-1].message) == ("failed", outcome.message)
        assert standing(outcome.folder).state == "stale"


DYING_LATER = """
import os
from mddbench.baselines.rd4ad import RD4AD

class Later(RD4AD):
    label = "Later"
    version = 1

    def image_scores(self, maps):
        if len(maps) > 1 and os.path.exists(MARK):  # in an evaluation, not in the check before it
            os._exit(9)
        return super().image_scores(maps)
"""


def test_a_cell_that_was_finished_before_does_not_fail_with_the_next_one_of_its_part(
    options: RunOptions, tmp_path: Path
) -> None:
    mark, methods = tmp_path / "mark", tmp_path / "plugins" / "methods"
    methods.mkdir(parents=True)
    (methods / "later.py").write_text(DYING_LATER.replace("MARK", repr(str(mark))))
    with plugins_put_back():
        add_folder(tmp_path / "plugins")
        first = planned(options, "folder/rd4ad", seeds=(0,), method="later")
        second = planned(options, "folder/rd4ad", seeds=(0,), method="later", metrics="histogram")
        assert [outcome.status for outcome in jobs(options, first, Listener())] == ["finished"]
        mark.touch()
        outcomes = jobs(options, first + second, Listener())
    assert [outcome.status for outcome in outcomes] == ["skipped", "failed"]
    assert outcomes[0].message == "finished before; --force runs it again"
    assert outcomes[1].message == "its process died (exit status 9); was there enough memory?"


DYING_AFTER_THE_RECORD = """
import os
from contextlib import suppress
from mddbench.baselines.rd4ad import RD4AD
from mddbench.execution.runner import Runner

class Last(RD4AD):
    label = "Last"
    version = 1

with suppress(FileNotFoundError):
    os.unlink(MARK)  # one process succeeds
    Runner._tidy = lambda *_: os._exit(9)
"""


def test_what_a_process_that_dies_after_the_record_leaves_is_tidied_by_another(
    options: RunOptions, tmp_path: Path
) -> None:
    mark, methods = tmp_path / "mark", tmp_path / "plugins" / "methods"
    methods.mkdir(parents=True)
    (methods / "last.py").write_text(DYING_AFTER_THE_RECORD.replace("MARK", repr(str(mark))))
    with plugins_put_back():
        add_folder(tmp_path / "plugins")
        cells = planned(options, "folder/rd4ad", seeds=(0, 1), method="last")
        mark.touch()
        outcomes = jobs(options, cells, Listener())
    assert not mark.exists()
    assert sorted(outcome.status for outcome in outcomes) == ["finished", "skipped"]
    for outcome in outcomes:
        assert outcome.folder is not None
        assert (outcome.folder / PICTURE).exists()
        assert not (outcome.folder / "checkpoint.pt").exists()


def test_cells_that_share_a_training_stay_together(options: RunOptions) -> None:
    """They differ in evaluation only: the second takes the first one's model, in whatever process."""
    cells = planned(options, "folder/rd4ad") + planned(options, "folder/rd4ad", metrics="histogram")
    cells += planned(options, "folder/rd4ad", seeds=(1,))
    listener = Listener()
    first, second, other = jobs(options, cells, listener)
    assert [one.status for one in (first, second, other)] == ["finished"] * 3
    assert len([said for said in listener.said if "trained before" in said]) == 1
    models = [record_of(one).model_sha256 for one in (first, second, other)]
    assert models[0] == models[1] != models[2]
    again = jobs(options, cells, listener)
    assert [one.status for one in again] == ["skipped"] * 3
    assert any("seed1: skipped, finished before" in said for said in listener.said)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_processes(sent: signal.Signals, options: RunOptions) -> None:
    class Interrupting(Listener):
        def say(self, message: str) -> None:
            super().say(message)
            if "features" in message:
                signal.raise_signal(sent)

    cells = planned(options, "folder/rd4ad", seeds=(0, 1), epochs=4000)
    with pytest.raises(KeyboardInterrupt), interruptible():
        jobs(options, cells, Interrupting())
    ends = [read_events(folder)[-1] for folder in (options.out / "cells").iterdir() if (folder / EVENTS).exists()]
    assert ends
    for end in ends:
        assert end.kind == "interrupted"
        with pytest.raises(ProcessLookupError):
            os.kill(end.process, 0)


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
