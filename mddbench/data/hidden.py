"""Test images whose labels the authors of a dataset keep, to score uploads on a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HiddenSplit:
    """One of the hidden splits of a category.

    Attributes:
        folder: The folder of its images.
        category: The category.
        names: The names of all its images.
    """

    folder: Path
    category: str
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the split, which is its folder's."""
        return self.folder.name
