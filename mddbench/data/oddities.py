"""What of an image file is read in a way that somebody may not expect: counted while files are decoded, told once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGES, DARK = "pages", "dark"
LINES = {
    PAGES: "{} files have several pages or frames, {} for one; only the first is read",
    DARK: "{} images with 16 bits a value use a quarter of their range at most, {} for one, as 12-bit cameras' do; they become "
    "dark: scale their values to 65535",
}


@dataclass
class Oddities:
    """found: kind of oddity -> how many files have it, and the first of them."""

    found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kinds: Iterable[str], file: str) -> None:
        """One file that is odd in these ways, which may be none."""
        for kind in kinds:
            count, first = self.found.get(kind, (0, file))
            self.found[kind] = count + 1, first

    def merge(self, other: Oddities) -> None:
        """Add those of another one, whose files come after one's own."""
        for kind, (count, file) in other.found.items():
            before, first = self.found.get(kind, (0, file))
            self.found[kind] = before + count, first

    def lines(self, root: Path | None = None) -> tuple[str, ...]:
        """A warning for each kind. root: of files that are named below it."""
        return tuple(
            LINES[kind].format(count, file if root is None else root / file)
            for kind, (count, file) in sorted(self.found.items())
        )

    @classmethod
    def read(cls, content: Any) -> Oddities:
        """What was written as JSON. Raises ValueError, TypeError or AttributeError for anything else."""
        found = {kind: (int(count), str(file)) for kind, (count, file) in content.items()}
        if not found.keys() <= LINES.keys():
            raise ValueError(f"expected {', '.join(LINES)}, found {', '.join(found)}")
        return cls(found)
