"""Folders that mddbench itself writes, wherever they lie and whatever their names are. They are never read as data."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

MARK = ".mddbench-output"
"""The name of the file that marks such a folder."""
NOTE = "mddbench wrote this folder; it is not read as a part of a dataset.\n"
CACHE = "cache"
"""The name of the cache inside an output folder."""
PARTS = frozenset({"cells", "report", CACHE, "mlruns", "mlartifacts", "ablations"})
"""The names of the folders inside an output folder. The output folder may be a dataset's own folder."""


def mark_own(folder: Path) -> None:
    """Create a folder if there is none, and mark it as written by mddbench. If it cannot be written, do nothing."""
    mark = folder / MARK
    if not mark.exists():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            mark.write_text(NOTE, encoding="utf-8")


def is_own(folder: Path) -> bool:
    """Find out whether mddbench wrote a folder.

    A folder is recognised by its mark, or by files that only output folders of an older release have.
    A part of an output folder is recognised by the output folder around it.
    A folder with images to train or test on is data, whatever else was written into it.

    Args:
        folder: The folder.

    Returns:
        True if mddbench wrote the folder. False also for a folder that may not be read.
    """
    try:
        if any((folder / part).is_dir() for part in ("train", "test")):
            return False
        if any((folder / name).exists() for name in (MARK, f"{CACHE}/{MARK}", "mlflow.db")):
            return True
        if folder.name in PARTS and any((folder.parent / name).exists() for name in (MARK, "mlflow.db")):
            return True
        return all((folder / name).is_dir() for name in ("decoded", "manifests"))
    except PermissionError:
        return False
