"""Leases: one holder at a time, among threads, processes and pretended machines, and no cell is blocked by a dead one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mddbench.errors import CellError
from mddbench.runs.leases import BEAT, OWNER, STALE, Clock, HeldError, Lease, Owner, acquire, leased, standing

ELSEWHERE = Owner("another", 7, "another machine")


class FakeClock(Clock):
    """A time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.on_sleep: Callable[[], object] = lambda: None

    def now(self, folder: Path) -> float:
        return self.time

    def renew(self, file: Path) -> None:
        os.utime(file, (self.time, self.time))

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.on_sleep()


def held_elsewhere(cell: Path, clock: FakeClock) -> Lease:
    lease = acquire(cell, clock, ELSEWHERE)
    clock.renew(lease.own / OWNER)
    return lease


def test_a_lease_is_held_until_it_is_released(tmp_path: Path) -> None:
    cell = tmp_path / "cell"
    with leased(cell) as lease:
        assert standing(cell).state == "held"
        with pytest.raises(HeldError, match=rf"another process is running it \(process {os.getpid()} on "):
            acquire(cell)
        lease.demand()
    assert standing(cell).state == "free"
    with leased(cell) as later:
        assert later.number == lease.number + 1
        assert not lease.own.exists(), "tidied away"


def test_of_many_that_see_a_dead_holder_one_wins(tmp_path: Path) -> None:
    """Many times, since a race may be lost rarely."""
    for attempt in range(20):
        cell = tmp_path / str(attempt)
        dead = replace(Owner.this_process(), born=1)
        acquire(cell, owner=dead)
        assert standing(cell).state == "stale"
        won: list[Lease] = []
        barrier = threading.Barrier(8)

        def take(cell: Path = cell, barrier: threading.Barrier = barrier, won: list[Lease] = won) -> None:
            barrier.wait()
            with suppress(HeldError):
                won.append(acquire(cell))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1


def test_a_number_that_was_tidied_away_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that looked long ago, and meanwhile two others have had the lease."""
    cell = tmp_path / "cell"
    acquire(cell).release()
    before = standing(cell)
    acquire(cell).release()
    with leased(cell) as lease:
        looks = iter([before])
        monkeypatch.setattr("mddbench.runs.leases.standing", lambda *given: next(looks, None) or standing(*given))
        with pytest.raises(HeldError):
            acquire(cell)
        lease.demand()
    assert sorted(path.name for path in (tmp_path / ".leases" / "cell").iterdir()) == [str(lease.number)]


COUNT = """
import sys, time
from pathlib import Path
from mddbench.runs.leases import HeldError, leased
cell, counter = Path(sys.argv[1]), Path(sys.argv[2])
done = 0
while done < 40:
    try:
        with leased(cell):
            value = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(value + 1))
            done += 1
    except HeldError:
        time.sleep(0.001)
"""


def test_processes_exclude_each_other(tmp_path: Path) -> None:
    """A counter that each reads and writes back, without a lock of the system."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path / "cell"), str(counter)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=240)[1] for process in processes] == ["", "", ""]
    assert counter.read_text() == "120"


def test_a_killed_process_of_this_machine_blocks_nobody(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from mddbench.runs.leases import acquire; "
        f"acquire(Path({str(tmp_path / 'cell')!r})); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert standing(tmp_path / "cell").state == "stale"
    with leased(tmp_path / "cell") as lease:
        assert lease.number == 2


def test_a_number_that_another_process_has_now_is_no_life(tmp_path: Path) -> None:
    acquire(tmp_path / "cell", owner=replace(Owner.this_process(), born=Owner.this_process().born - 1))
    assert standing(tmp_path / "cell").state == "stale"


def test_a_holder_elsewhere_that_renews_is_left_alone(tmp_path: Path) -> None:
    """It is watched until the renewal is seen, on the file system's clock."""
    cell, clock = tmp_path / "cell", FakeClock()
    theirs = held_elsewhere(cell, clock)
    began = clock.time
    clock.on_sleep = lambda: clock.renew(theirs.own / OWNER) if clock.time - began >= BEAT else None
    with pytest.raises(HeldError, match="process 7 on another"):
        acquire(cell, clock)
    assert clock.time - began <= BEAT + 2
    theirs.demand()


def test_a_holder_elsewhere_that_is_silent_is_taken_over(tmp_path: Path) -> None:
    """When it wakes up, it finds that it has lost the cell, and what it releases is not the new lease."""
    cell, clock = tmp_path / "cell", FakeClock()
    theirs = held_elsewhere(cell, clock)
    began = clock.time
    mine = acquire(cell, clock)
    clock.renew(mine.own / OWNER)
    assert STALE < clock.time - began < STALE + 5
    with pytest.raises(CellError, match="another process has taken this cell over"):
        theirs.demand()
    theirs.release()
    assert standing(cell, clock).state == "held"
    mine.demand()


def test_one_that_died_before_it_wrote_its_name_is_waited_for(tmp_path: Path) -> None:
    cell, clock = tmp_path / "cell", FakeClock()
    nameless = tmp_path / ".leases" / "cell" / "1"
    nameless.mkdir(parents=True)
    clock.renew(nameless)
    assert standing(cell, clock).state == "held"
    clock.time += STALE + 1
    assert standing(cell, clock).state == "stale"
    assert acquire(cell, clock).number == 2


def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mddbench.runs.leases.BEAT", 0.01)
    renewed = threading.Event()
    monkeypatch.setattr("mddbench.runs.leases.CLOCK.renew", lambda file: renewed.set())
    with leased(tmp_path / "cell"):
        assert renewed.wait(20)


def test_whoever_may_only_read_sees_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And by this machine's clock."""
    cell = tmp_path / "cell"
    acquire(cell, owner=ELSEWHERE)

    def refused(**_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("mddbench.runs.leases.TemporaryFile", refused)
    assert standing(cell).state == "held"
