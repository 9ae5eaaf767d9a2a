"""Paths as a user of the Python API gives them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

PathName = str | PathLike[str]
OUT = "mddbench-out"
"""The usual output folder of runs."""


def path_of(value: PathName | None) -> Path | None:
    """Return a path, or None for None."""
    return None if value is None else Path(value)
