"""1000 cells on 64 pretended nodes, with a pretended time: preemptions, time limits, lost nodes, nodes that stand still, and a
tracking store that is down half of the time. Leases, events, states and collecting are the real ones."""

from __future__ import annotations

import heapq
import json
import random
from collections import Counter, deque
from pathlib import Path
from typing import Any

import pytest
from test_leases import FakeClock

from mddbench.errors import CellError, TrackingError
from mddbench.execution.collecting import collect_plan
from mddbench.execution.frozen import FrozenPlan
from mddbench.execution.state import states
from mddbench.runs.events import append_event, read_events
from mddbench.runs.leases import BEAT, OWNER, STALE, Lease, Owner, acquire, standing
from mddbench.runs.records import RECORD, write_record
from support import experiment, record

CELLS, NODES, EPOCHS, EPOCH_SECONDS = 1000, 64, 4, 40
LIMIT = 130.0
"""Seconds of a turn: too short for a cell."""


def plan_of(out: Path, cells: int) -> FrozenPlan:
    options = {
        **{"out": str(out), "cache": str(out / "cache"), "data_root": None, "weights_dir": None, "textures": None},
        **{"resamples": 0, "held_out": False, "development": False, "test_curve": 0, "keep_maps": False},
        **{"feature_room": 0.0, "compiling": False, "checkpoint_every": 0, "latency": False},
    }
    content = {"name": "cell", "experiment": experiment().model_dump(), "seed": 0}
    parts = [[{**content, "identity": f"{number:016x}", "folder": f"cells/{number}"}] for number in range(cells)]
    head = {"version": 2, "mddbench": "0", "source": "0", "suite": "quick", "plugins": [], "device": "cpu"}
    return FrozenPlan.model_validate_json(json.dumps({**head, "options": options, "parts": parts}))


class Cluster:
    """Nodes that take jobs from a queue, as an array job's do, on a time of their own."""

    def __init__(self, plan: FrozenPlan, seed: int) -> None:
        self.plan, self.clock, self.chance = plan, FakeClock(), random.Random(seed)
        self.queue = deque(range(len(plan.parts)))
        self.agenda: list[tuple[float, int, Any]] = []
        self.count, self.happened = 0, Counter[str]()
        self.writers: Counter[int] = Counter()
        self.epochs: Counter[int] = Counter()  # what the checkpoints hold

    def later(self, seconds: float, what: Any) -> None:
        self.count += 1
        heapq.heappush(self.agenda, (self.clock.time + seconds, self.count, what))

    def run(self) -> None:
        for node in range(NODES):
            self.later(0, self.node(node))
        while self.agenda:
            time, _, process = heapq.heappop(self.agenda)
            self.clock.time = max(self.clock.time, time)
            wait = next(process, None)
            if wait is not None:
                self.later(wait, process)

    def node(self, name: int) -> Any:
        """A node's days: each yield is a time in which it does nothing here."""
        turns = 0
        while self.queue or self.unfinished():
            if not self.queue:
                yield 30.0
                continue
            index, turns = self.queue.popleft(), turns + 1
            yield 1.0
            yield from self.turn(index, Owner(f"node{name}", turns, f"node{name} {turns}"))

    def unfinished(self) -> bool:
        return len(self.writers) < len(self.plan.parts)

    def turn(self, index: int, owner: Owner) -> Any:
        """One job: it takes the lease, trains, and ends in one of the ways in which jobs end."""
        folder = self.plan.folder(self.plan.parts[index][0])
        folder.mkdir(parents=True, exist_ok=True)
        while standing(folder, self.clock).state == "held":
            self.happened["waited for a lease"] += 1
            yield 5.0
        if (folder / RECORD).exists():
            return
        lease = acquire(folder, self.clock, owner)
        self.clock.renew(lease.own / OWNER)
        append_event(folder, "started")
        began = self.clock.time
        end = self.chance.choices(["finish", "preempted", "killed", "lost", "still"], [70, 12, 8, 5, 5])[0]
        at = self.chance.uniform(0, EPOCHS * EPOCH_SECONDS)
        try:
            yield from self.train(index, lease, began, end, at)
        except CellError:
            self.happened["found its lease taken"] += 1

    def train(self, index: int, lease: Lease, began: float, end: str, at: float) -> Any:
        folder = self.plan.folder(self.plan.parts[index][0])
        limit = LIMIT
        while self.epochs[index] < EPOCHS:
            for _ in range(int(EPOCH_SECONDS / BEAT)):
                yield BEAT
                if not lease.is_lost:
                    self.clock.renew(lease.own / OWNER)
                elapsed = self.clock.time - began
                if (end in ("preempted", "killed") and elapsed > at) or elapsed > limit:
                    self.happened["time limit" if elapsed > limit else end] += 1
                    if end != "killed":
                        append_event(folder, "interrupted")
                        lease.release()
                    self.queue.append(index)
                    return
                if end in ("lost", "still") and elapsed > at:
                    self.happened[end] += 1
                    self.queue.append(index)
                    if end == "lost":
                        return
                    yield self.chance.uniform(1, 4 * STALE)  # then it goes on, as a node that was cut off does
                    end, limit = "finish", float("inf")
            lease.demand()
            self.epochs[index] += 1
            append_event(folder, "epoch", epoch=self.epochs[index])
        lease.demand()
        self.writers[index] += 1
        write_record(record(identity=self.plan.parts[index][0].identity), folder / RECORD)
        append_event(folder, "finished")
        lease.release()


class Store:
    """A tracking store that is down half of the time, also in the midst of a run."""

    def __init__(self) -> None:
        self.asked, self.finished, self.stopped = 0, Counter[str](), 0

    def answer(self) -> None:
        self.asked += 1
        if self.asked // 1500 % 2:
            raise TrackingError("the store is down")

    def has(self, identity: str, folder: Path) -> bool:
        self.answer()
        return identity in self.finished

    def start(self, facts: Any, folder: Path | None) -> Any:
        self.answer()
        self.identity = facts.identity
        return self

    def finish(self, record: Any, files: list[Path]) -> None:
        self.answer()
        assert record.identity == self.identity
        self.finished[record.identity] += 1

    def stop(self, status: str, message: str) -> None:
        self.stopped += 1


@pytest.mark.parametrize("cells", [CELLS])
def test_nothing_is_lost_and_nothing_done_twice(cells: int, tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "out", cells)
    cluster, store = Cluster(plan, seed=0), Store()
    cluster.run()
    assert set(cluster.writers) == set(range(cells))
    assert set(cluster.writers.values()) == {1}, "a record was written twice"
    for what in ("time limit", "preempted", "killed", "lost", "still", "waited for a lease", "found its lease taken"):
        assert cluster.happened[what] >= cells // 500, f"{what} did not happen: {cluster.happened}"
    for cell in plan.cells():
        epochs = [event.epoch for event in read_events(plan.folder(cell)) if event.kind == "epoch"]
        assert epochs == list(range(1, EPOCHS + 1)), "an epoch was lost or trained twice"
    assert {state.state for state in states(plan)} == {"finished"}
    down = 0
    while sum(store.finished.values()) < cells:
        try:
            collect_plan(plan, store, lambda _: None)  # type: ignore[arg-type]
        except TrackingError:
            down += 1
    assert down >= 1500
    assert store.stopped, "it went down in the midst of a run"
    assert set(store.finished.values()) == {1}
    assert len(store.finished) == cells
    collected = None
    while collected is None:
        try:
            collected = collect_plan(plan, store, lambda _: None)  # type: ignore[arg-type]
        except TrackingError:
            continue
    assert (collected.logged, collected.present, collected.unfinished, collected.bad) == (0, cells, 0, [])
