"""Which process of one machine runs which part of a plan, and how it ended: files in a folder of one `mddbench run --jobs`.

A process claims a part by making a file of its number, which one process can do. When the part has ended, it writes how.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mddbench.execution.runner import Outcome


@dataclass(frozen=True)
class Claims:
    """The parts of a plan that processes have claimed.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def claim(self, index: int) -> bool:
        """Claim a part for this process.

        Args:
            index: Number of the part.

        Returns:
            False if another process has it.
        """
        try:
            handle = os.open(self.folder / str(index), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        os.write(handle, str(os.getpid()).encode())
        os.close(handle)
        return True

    def has(self, index: int) -> bool:
        """Return True if a process has claimed a part."""
        return (self.folder / str(index)).exists()

    def of(self, pid: int) -> list[int]:
        """Find the parts that a process has claimed and not ended."""
        return [
            int(file.name)
            for file in self.folder.iterdir()
            if file.name.isdecimal()
            and file.read_text(encoding="ascii") == str(pid)
            and not file.with_suffix(".json").exists()
        ]

    def begin_again(self, index: int, without: list[int]) -> None:
        """Let another process have a part whose process died.

        Args:
            index: Number of the part.
            without: Numbers of its cells that have ended.
        """
        (self.folder / f"{index}.without").write_text(json.dumps(without), encoding="ascii")
        (self.folder / str(index)).unlink()

    def without(self, index: int) -> list[int]:
        """Return the numbers of the cells of a part that ended before it was begun again."""
        try:
            numbers: list[int] = json.loads((self.folder / f"{index}.without").read_text(encoding="ascii"))
        except FileNotFoundError:
            return []
        return numbers

    def end(self, index: int, outcomes: dict[int, Outcome]) -> None:
        """Write how the cells of a part ended.

        Args:
            index: Number of the part.
            outcomes: Number of a cell in the part -> how it ended.
        """
        content = {
            number: [outcome.status, str(outcome.folder) if outcome.folder else None, outcome.message]
            for number, outcome in outcomes.items()
        }
        partial = self.folder / f"{index}.part"
        partial.write_text(json.dumps(content), encoding="utf-8")
        os.replace(partial, self.folder / f"{index}.json")

    def ended(self, index: int) -> dict[int, Any] | None:
        """Read how the cells of a part ended: status, folder and message. None if it has not ended."""
        try:
            content = json.loads((self.folder / f"{index}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return {int(number): ended for number, ended in content.items()}
