"""Locks among one user's processes on a machine, kept beside nothing that somebody could mistake for theirs."""

from __future__ import annotations

import hashlib
from getpass import getuser
from pathlib import Path
from tempfile import gettempdir

from filelock import FileLock


def lock_for(work: str, place: str) -> FileLock:
    """A lock on doing some work at a place, which a path or an address names: held by one process, others wait."""
    name = hashlib.sha256(f"{getuser()}\n{work}\n{place}".encode()).hexdigest()[:16]
    return FileLock(Path(gettempdir()) / f"mddbench-{work}-{name}.lock")
