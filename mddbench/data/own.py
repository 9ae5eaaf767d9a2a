"""Folders that this program writes, wherever they lie and whatever they are called: none of them is ever read as data."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

MARK = ".mddbench-output"
"""Lies in each of them."""
NOTE = "mddbench wrote this folder; it is not read as a part of a dataset.\n"
CACHE = "cache"
"""What the cache inside an output folder is called."""
PARTS = frozenset({"cells", "report", CACHE, "mlruns", "mlartifacts", "ablations"})
"""What an output folder holds, which may be a dataset's own folder."""


def mark_own(folder: Path) -> None:
    """Make a folder, if it is not there, and mark it. What cannot be written is not marked."""
    mark = folder / MARK
    if not mark.exists():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            mark.write_text(NOTE, encoding="utf-8")


def is_own(folder: Path) -> bool:
    """Whether this program wrote a folder: by its mark, by what only an output folder of an older release holds, or as a part
    of an output folder around it. A folder with images to train or test on is data, whatever else was written into it.
    """
    try:
        if any((folder / part).is_dir() for part in ("train", "test")):
            return False
        if any((folder / inner).exists() for inner in (MARK, f"{CACHE}/{MARK}", "mlflow.db")):
            return True
        if folder.name in PARTS and any((folder.parent / inner).exists() for inner in (MARK, "mlflow.db")):
            return True
        return all((folder / inner).is_dir() for inner in ("decoded", "manifests"))
    except PermissionError:
        return False
