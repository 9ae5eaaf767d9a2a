"""Locks between the processes of one user on one machine.

The lock files lie in the system's folder for temporary files, where nobody mistakes them for their own files.
"""

from __future__ import annotations

import hashlib
from getpass import getuser
from pathlib import Path
from tempfile import gettempdir

from filelock import FileLock


def lock_for(work: str, target: str) -> FileLock:
    """Return the lock for one kind of work on one target. One process holds it while the others wait.

    Args:
        work: The name of the kind of work; it becomes a part of the lock file's name.
        target: What the work changes: a path, or the address of a store.

    Returns:
        The lock, not yet acquired.
    """
    name = hashlib.sha256(f"{getuser()}\n{work}\n{target}".encode()).hexdigest()[:16]
    return FileLock(Path(gettempdir()) / f"mddbench-{work}-{name}.lock")
