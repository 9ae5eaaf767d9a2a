"""Leases: one process at a time runs a cell, on whatever machine that sees the same folder.

A lock of the operating system excludes nobody on other machines where a network file system keeps it local. `mkdir`
excludes everywhere. So a lease is a folder, and each holder makes a folder with the next number in it:

    cells/.leases/NAME/1/owner.json    the first holder, whose lease has ended
    cells/.leases/NAME/2/owner.json    the present one, who renews the file's time every few seconds

Whoever makes the folder with the next number holds the lease. That is tried only when the last holder has released it
or is stale. The last number is never removed, so of several that see a stale holder one wins. Those before are tidied
away; whoever makes such a number again, because it looked long ago, finds a greater one. So does a holder that stood
still for long and wakes up.

Ages are differences between two times of the file system's clock, since clocks of machines differ.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from mddbench.errors import CellError
from mddbench.runs.events import job_of_cluster

BEAT = 10.0
"""Seconds between two renewals."""
STALE = 120.0
"""Seconds without a renewal after which a holder on another machine counts as dead. Network file systems show changes late."""
OWNER, RELEASED = "owner.json", "released"


class HeldError(CellError):
    """Another process holds the lease."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lease.

    Attributes:
        host: Name of its machine.
        pid: Number of its process.
        place: What numbers of processes belong to: the machine since its start, and the container. '' if unknown.
        born: When the process began, in the machine's ticks; a number may be used again. 0 if unknown.
        job: Its job of a cluster, '' if there is none.
        started: When it got the lease, in seconds since 1970, by its own clock.
    """

    host: str = "?"
    pid: int = 0
    place: str = ""
    born: int = 0
    job: str = ""
    started: float = 0.0

    @classmethod
    def this_process(cls) -> Owner:
        """Describe the process that calls this."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _place(), _born(pid), job_of_cluster(), time.time())

    @property
    def is_dead(self) -> bool:
        """True if it belongs to this machine and has ended. False if it lives, or if that cannot be seen from here."""
        return bool(self.place) and self.place == _place() and _born(self.pid) != self.born

    @property
    def lives(self) -> bool:
        """True if it belongs to this machine and has not ended."""
        return bool(self.place) and self.place == _place() and _born(self.pid) == self.born

    def __str__(self) -> str:
        """Name the process for a message."""
        return f"process {self.pid} on {self.host}" + (f", job {self.job}" if self.job else "")


class Clock:
    """The time of a file system, and waiting. Tests have another one."""

    def now(self, folder: Path) -> float:
        """Return the file system's time in seconds: that of a file made now. This machine's where none can be made."""
        try:
            with TemporaryFile(dir=folder) as file:
                return os.fstat(file.fileno()).st_mtime
        except OSError:
            return time.time()

    def renew(self, file: Path) -> None:
        """Set the time of a file to the file system's present time."""
        os.utime(file)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


CLOCK = Clock()


@dataclass(frozen=True)
class Standing:
    """The present state of a lease.

    Attributes:
        number: Number of the last holder, 0 if there was none.
        owner: The last holder; None if there was none.
        state: 'free', 'held', or 'stale' if the holder is dead or does not renew.
        beat: Time of the last renewal.
    """

    number: int
    owner: Owner | None
    state: str
    beat: float = 0.0


def standing(folder: Path, clock: Clock = CLOCK) -> Standing:
    """Look who holds the lease of a cell. This changes nothing.

    Args:
        folder: Folder of the cell.
        clock: The clock.

    Returns:
        The state.
    """
    leases = _folder(folder)
    number = max(_numbers(leases), default=0)
    if not number:
        return Standing(0, None, "free")
    held = leases / str(number)
    owner = _owner(held / OWNER)
    if (held / RELEASED).exists():
        return Standing(number, owner, "free")
    try:
        beat = (held / (OWNER if (held / OWNER).exists() else "")).stat().st_mtime
    except FileNotFoundError:  # tidied away by its successor
        return Standing(number, owner, "held")
    stale = owner.is_dead or (not owner.lives and clock.now(leases) - beat > STALE)
    return Standing(number, owner, "stale" if stale else "held", beat)


class Lease:
    """The lease of a cell that this process holds.

    Attributes:
        folder: Folder of the lease.
        number: Number of this holder.
        clock: The clock.
    """

    def __init__(self, folder: Path, number: int, owner: Owner, clock: Clock) -> None:
        """Write down the holder of a number that this process has just made."""
        self.folder, self.number, self.clock = folder, number, clock
        self.ended = threading.Event()
        partial = self.own / f"{OWNER}.part"
        partial.write_text(json.dumps(vars(owner)), encoding="utf-8")
        os.replace(partial, self.own / OWNER)
        for earlier in _numbers(folder):
            if earlier < number:
                shutil.rmtree(folder / str(earlier), ignore_errors=True)

    @property
    def own(self) -> Path:
        """The folder of this holder."""
        return self.folder / str(self.number)

    @property
    def is_lost(self) -> bool:
        """True if another process has taken the lease over, because this one seemed dead."""
        return max(_numbers(self.folder), default=0) != self.number

    def demand(self) -> None:
        """Raise CellError if the lease is lost, before something is written that its new holder writes, too.

        Raises:
            CellError: If it is lost.
        """
        if self.is_lost:
            raise CellError(f"{self.folder}: another process has taken this cell over, since this one stood still")

    def keep(self) -> None:
        """Renew the lease until it is released or lost."""
        while not self.ended.wait(BEAT):
            with suppress(OSError):  # a network file system may fail for a while
                if self.is_lost:
                    return
                self.clock.renew(self.own / OWNER)

    def release(self) -> None:
        """Give the lease back."""
        self.ended.set()
        with suppress(OSError):  # for example if the folder has gone
            (self.own / RELEASED).touch()


def acquire(folder: Path, clock: Clock = CLOCK, owner: Owner | None = None) -> Lease:
    """Take the lease of a cell. A stale one is taken over.

    A holder on another machine that may be dead is watched until it renews the lease or becomes stale.

    Args:
        folder: Folder of the cell, whose parent exists.
        clock: The clock.
        owner: The new holder; None for this process.

    Returns:
        The lease, which nothing renews yet.

    Raises:
        HeldError: If a living process holds it.
    """
    leases, me = _folder(folder), owner or Owner.this_process()
    leases.mkdir(parents=True, exist_ok=True)
    first: Standing | None = None
    while True:
        now = standing(folder, clock)
        if now.state == "held":
            first = first or now
            assert now.owner is not None
            if now.owner.lives or (now.number, now.beat) != (first.number, first.beat):
                raise HeldError(f"another process is running it ({now.owner}; see {leases})")
            clock.sleep(1.0)
            continue
        if _make(leases, now.number + 1):
            return Lease(leases, now.number + 1, me, clock)
        first = None  # another one was faster


@contextmanager
def leased(folder: Path) -> Iterator[Lease]:
    """Hold the lease of a cell inside the `with` block, and renew it.

    A HeldError is raised if a living process holds it.

    Args:
        folder: Folder of the cell, whose parent exists.

    Yields:
        The lease.
    """
    lease = acquire(folder)
    thread = threading.Thread(target=lease.keep, daemon=True, name="lease")
    thread.start()
    try:
        yield lease
    finally:
        lease.release()


def _make(leases: Path, number: int) -> bool:
    """Make the folder of a number, unless it was made before: it may be there, or tidied away since a greater one is."""
    made = leases / str(number)
    try:
        made.mkdir()
    except FileExistsError:
        return False
    if max(_numbers(leases)) > number:
        shutil.rmtree(made, ignore_errors=True)
        return False
    return True


def _folder(cell: Path) -> Path:
    return cell.parent / ".leases" / cell.name


def _numbers(leases: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(leases) if name.isdecimal()]  # noqa: PTH208 - one call of the system
    except FileNotFoundError:
        return []


def _owner(file: Path) -> Owner:
    """Read who holds a lease. One that died before it wrote its name is nobody known."""
    try:
        return Owner(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Owner()


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return ""


def _born(pid: int) -> int:
    """Return when a process began, in ticks since the machine's start; 0 if there is none, -1 if it is a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return int(after_name[19]) if after_name[0] not in "ZX" else -1
