"""Finished cells that are run again by `--force`: the new results replace the old ones when they are complete."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mddbench.runs.events import replacement_folder
from mddbench.runs.leases import HeldError, leased
from mddbench.runs.records import RECORD


def finish_replacing(folder: Path) -> None:
    """Move a finished cell that was run again to the folder of the old one.

    If the process is killed during this, the next call completes it.

    Args:
        folder: Folder of the cell.
    """
    old, new = _old_folder(folder), replacement_folder(folder)
    if (new / RECORD).exists():
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            old.parent.mkdir(parents=True, exist_ok=True)
            folder.replace(old)
        new.replace(folder)
    elif old.exists() and not folder.exists():
        old.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def end_replacements(out: Path, say: Callable[[str], object]) -> None:
    """Clean up after interrupted runs with `--force`.

    Finished cells are moved to their folders. Unfinished ones are removed.

    Args:
        out: Output folder.
        say: Called with a message for each unfinished cell.
    """
    cells = out / "cells"
    names = {path.name for parent in (".new", ".old") for path in (cells / parent).glob("*")}
    for name in sorted(names):
        folder = cells / name
        with suppress(HeldError), leased(folder):
            finish_replacing(folder)
            if replacement_folder(folder).exists():
                say(f"{replacement_folder(folder)}: an earlier --force ended here; what it had begun is removed")
                shutil.rmtree(replacement_folder(folder))


def _old_folder(folder: Path) -> Path:
    """Return the folder that holds the old results of a cell while it is replaced."""
    return folder.parent / ".old" / folder.name
