"""Logging while cells run, from their events: a store that is slow, dead or hung costs no cell, and no run stays open."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mddbench.errors import InputError, TrackingError
from mddbench.interruption import Interruption, interruptible
from mddbench.runs.events import EVENTS, EventReader, append_event, current_folder, replacement_folder
from mddbench.runs.facts import facts_of
from mddbench.runs.leases import Owner
from mddbench.runs.live import LiveLog, Logged
from mddbench.runs.records import RECORD, EpochLog, write_record
from mddbench.runs.store import MlflowStore
from mddbench.runs.tracking import PROCESS_TAG, MlflowTracker
from support import record

FACTS = vars(facts_of(record()))


class Run:
    def __init__(self, tracker: Tracker, name: str) -> None:
        self.tracker, self.name = tracker, name

    def epoch(self, log: EpochLog) -> None:
        self.tracker.note(self.name, "epoch", log.epoch)

    def finish(self, record: Any, files: list[Path]) -> None:
        self.tracker.note(self.name, "finish")

    def stop(self, status: str, message: str) -> None:
        self.tracker.note(self.name, status, message)


class Store:
    uri, answered = "http://store", 0.0


class Tracker:
    """Keeps what it is told."""

    store = Store()

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def note(self, *what: object) -> None:
        self.told.append(what)

    def start(self, facts: Any, folder: Path | None) -> Any:
        self.note(facts.name, "start")
        return Run(self, facts.name)

    def has(self, identity: str, folder: Path) -> bool:
        return False


@pytest.fixture
def cell(tmp_path: Path) -> Logged:
    folder = tmp_path / "cells" / "one"
    folder.mkdir(parents=True)
    return Logged("one", record().identity, folder)


def end(cell: Logged) -> None:
    write_record(record(), cell.folder / RECORD)
    append_event(cell.folder, "finished")


def trained(cell: Logged) -> None:
    append_event(cell.folder, "started", facts=FACTS)
    append_event(cell.folder, "epoch", epoch=1, log=record().history[0])


def test_what_happens_to_a_cell_is_logged_while_it_happens(cell: Logged) -> None:
    tracker = Tracker()
    log = LiveLog(lambda: tracker, [cell], print)  # type: ignore[arg-type,return-value]
    trained(cell)
    deadline = time.monotonic() + 60
    while len(tracker.told) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    name = FACTS["name"]
    assert tracker.told == [(name, "start"), (name, "epoch", 1)]
    end(cell)
    assert log.finish(interrupted=False) == []
    assert tracker.told[2:] == [(name, "finish")]


@pytest.mark.parametrize(
    ("kind", "status"), [("interrupted", "KILLED"), ("failed", "FAILED"), (None, "KILLED")], ids=str
)
def test_what_does_not_finish_ends_as_such(kind: Any, status: str, cell: Logged) -> None:
    """Also where the process was killed and said nothing."""
    tracker = Tracker()
    log = LiveLog(lambda: tracker, [cell], print)  # type: ignore[arg-type,return-value]
    trained(cell)
    if kind:
        append_event(cell.folder, kind, message="why")
    assert log.finish(interrupted=kind == "interrupted") == []
    assert tracker.told[2][1] == status
    assert tracker.told[3:] == []


def test_a_store_that_fails_for_a_while_gets_the_cell_at_the_end(cell: Logged) -> None:
    class Failing(Tracker):
        left = 1

        def note(self, *what: object) -> None:
            if what[1:2] == ("epoch",) and self.left:
                self.left -= 1
                raise TrackingError("it is full")
            super().note(*what)

    tracker, said = Failing(), []
    log = LiveLog(lambda: tracker, [cell], said.append)  # type: ignore[arg-type,return-value]
    trained(cell)
    append_event(cell.folder, "epoch", epoch=2, log=record().history[0])
    end(cell)
    assert log.finish(interrupted=False) == []
    assert [what for _, what, *_ in tracker.told] == ["start", "finish"]
    assert said == ["one: it is full; the training goes on, and its results are logged at the end"]


@pytest.mark.parametrize("fault", [InputError("it cannot be opened"), RuntimeError("it cannot be opened")], ids=repr)
def test_a_store_that_cannot_be_opened_costs_a_line(fault: Exception, cell: Logged) -> None:
    def fail() -> Any:
        raise fault

    log = LiveLog(fail, [cell], print)
    trained(cell)
    end(cell)
    (line,) = log.finish(interrupted=False)
    assert line.startswith("one is not logged: ")
    assert line.endswith("it cannot be opened")


def test_after_a_few_faults_the_others_are_not_tried(tmp_path: Path) -> None:
    class Dead(Tracker):
        def has(self, identity: str, folder: Path) -> bool:
            self.note("asked")
            raise TrackingError("it is dead")

    cells = []
    for number in range(8):
        folder = tmp_path / "cells" / str(number)
        folder.mkdir(parents=True)
        write_record(record(), folder / RECORD)
        cells.append(Logged(str(number), record().identity, folder))
    tracker = Dead()
    lines = LiveLog(lambda: tracker, cells, print).finish(interrupted=False)  # type: ignore[arg-type,return-value]
    assert lines == [f"{number} is not logged: it is dead" for number in range(8)]
    assert tracker.told.count(("asked",)) == 3


def test_a_hung_store_is_given_up_and_ctrl_c_is_obeyed(cell: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mddbench.runs.live.PATIENCE", {True: 0.6, False: 0.6})
    monkeypatch.setattr("mddbench.runs.live.TELLING", 0.2)

    class Hung(Tracker):
        def start(self, facts: Any, folder: Path | None) -> Any:
            time.sleep(3)
            return Run(self, facts.name)

    said: list[str] = []
    log = LiveLog(Hung, [cell], said.append)  # type: ignore[arg-type,return-value]
    trained(cell)
    end(cell)
    (line,) = log.finish(interrupted=False)
    assert line == "one is not logged: the tracking store http://store does not answer"
    assert said[0].startswith("waiting for the tracking store http://store, which has not answered for ")
    assert "given up after" in said[1]
    assert log.given_up
    monkeypatch.setattr("mddbench.runs.live.PATIENCE", {True: 100.0, False: 100.0})
    signals = iter([signal.SIGINT])

    def interrupt(_: str) -> None:
        for number in signals:
            signal.raise_signal(number)

    another = LiveLog(Hung, [cell], interrupt)  # type: ignore[arg-type,return-value]
    append_event(cell.folder, "started", facts=FACTS)
    began = time.monotonic()
    with interruptible(), pytest.raises(Interruption):
        another.finish(interrupted=False)
    assert time.monotonic() - began < 50


def test_events_are_followed_when_a_finished_cell_is_replaced(tmp_path: Path) -> None:
    """Those of before are left out, and a line that is not whole is read when it is."""
    folder = tmp_path / "cells" / "one"
    folder.mkdir(parents=True)
    append_event(folder, "started")
    reader, new = EventReader(folder), replacement_folder(folder)
    assert reader.new() == []
    new.mkdir(parents=True)
    append_event(new, "started")
    with (new / EVENTS).open("a") as file:
        file.write('\n{"kind": "epoch", "ti')
    assert current_folder(folder) == new
    assert [event.kind for event in reader.new()] == ["started"]
    with (new / EVENTS).open("a") as file:
        file.write('me": "x", "epoch": 1}')
    assert [event.kind for event in reader.new()] == ["epoch"]
    folder.rename(tmp_path / "old")
    new.rename(folder)
    append_event(folder, "finished")
    assert [event.kind for event in reader.new()] == ["finished"]
    assert current_folder(folder) == folder


def test_what_a_killed_process_left_running_is_ended(migrated: Path, tmp_path: Path) -> None:
    """Runs of cells and of commands; those of living processes and of other machines stay."""
    store = MlflowStore(f"sqlite:///{migrated}", migrated.parent / "mlruns")
    experiment = store.experiment("mddbench/abandoned/x")
    me = Owner.this_process()
    owners = {"mine": me, "dead": replace(me, born=1), "elsewhere": replace(me, place="another")}
    ids = {
        name: store.client.create_run(experiment, tags={PROCESS_TAG: json.dumps(vars(owner))}).info.run_id
        for name, owner in owners.items()
    }
    ids["untagged"] = store.client.create_run(experiment).info.run_id
    MlflowTracker(store, "quick", "run").end_abandoned()
    found = {name: store.client.get_run(run_id).info.status for name, run_id in ids.items()}
    for run_id in ids.values():
        store.client.delete_run(run_id)
    assert found == {"mine": "RUNNING", "dead": "KILLED", "elsewhere": "RUNNING", "untagged": "RUNNING"}
