"""Oddities of image files: properties that are read in a way that somebody may not expect.

They are counted while files are decoded, and each kind is reported once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGES, DARK = "pages", "dark"
LINES = {
    PAGES: "{} files have several pages or frames, {} for one; only the first is read",
    DARK: "{} images with 16 bits a value use a quarter of their range at most, {} for one, as 12-bit cameras' do; "
    "they become dark: scale their values to 65535",
}
"""The warning for each kind of oddity, with places for the number of files and the first of them."""


@dataclass
class Oddities:
    """The oddities of some files.

    Attributes:
        by_kind: For each kind of oddity the number of files that have it, and the first of these files.
    """

    by_kind: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kinds: Iterable[str], file: str) -> None:
        """Count the oddities of one file.

        Args:
            kinds: The kinds of its oddities; may be empty.
            file: The name of the file.
        """
        for kind in kinds:
            count, first = self.by_kind.get(kind, (0, file))
            self.by_kind[kind] = count + 1, first

    def merge(self, later: Oddities) -> None:
        """Add the oddities of later files.

        Args:
            later: The oddities of files that come after these.
        """
        for kind, (count, file) in later.by_kind.items():
            previous, first = self.by_kind.get(kind, (0, file))
            self.by_kind[kind] = previous + count, first

    def lines(self, root: Path | None = None) -> tuple[str, ...]:
        """Make a warning for each kind of oddity.

        Args:
            root: The folder to which the names of the files are relative. None if they are complete.

        Returns:
            One line for each kind, sorted by kind.
        """
        return tuple(
            LINES[kind].format(count, file if root is None else root / file)
            for kind, (count, file) in sorted(self.by_kind.items())
        )

    @classmethod
    def read(cls, content: Any) -> Oddities:
        """Restore oddities from JSON. TypeError or AttributeError is raised for content of another structure.

        Args:
            content: The JSON value of `by_kind`.

        Returns:
            The oddities.

        Raises:
            ValueError: If a kind is not known, or if a value is no pair.
        """
        by_kind = {kind: (int(count), str(file)) for kind, (count, file) in content.items()}
        if not by_kind.keys() <= LINES.keys():
            raise ValueError(f"expected {', '.join(LINES)}, found {', '.join(by_kind)}")
        return cls(by_kind)
