"""A small grid of cells for scripts that run it in several ways: its images, its command, its records."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from mddbench.runs.records import Record, read_record
from support import write_tree

THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""One thread in every way, so that records can be equal to the last bit."""


class Grid:
    """Cells of some experiments on drawn images.

    Attributes:
        words: What chooses the cells on the command line.
    """

    def __init__(self, folder: Path, experiments: Sequence[str], *options: str) -> None:
        """Draw the images into a folder, and keep how the cells are chosen."""
        self.words = [*experiments, "--data-root", str(write_tree(folder / "tree", train=8)), "--device", "cpu", "-q"]
        self.words += ["--set", "image_size=64", "--set", "batch_size=4", *options]

    def run(self, out: Path, *options: str) -> list[str]:
        """The command that runs the grid into a folder."""
        return [*mddbench("run"), *self.words, "--out", str(out), "--no-report", *options]

    def plan(self, out: Path) -> Path:
        """Write the plan of the grid beside a folder, and return its file."""
        done = finished([*mddbench("plan"), *self.words, "--out", str(out)])
        file = out.with_suffix(".json")
        file.write_text(done, encoding="utf-8")
        return file


def mddbench(*words: str) -> list[str]:
    """The start of a command of this environment's mddbench."""
    return [sys.executable, "-c", "from mddbench.cli.main import main; main()", *words]


def environment() -> dict[str, str]:
    """The environment of all processes."""
    return {**os.environ, **THREADS}


def finished(command: list[str]) -> str:
    """Run a command that must succeed, and return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[3:])}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout


def records(out: Path) -> dict[str, Record]:
    """Identity -> record of the finished cells below a folder."""
    return {record.identity: record for file in out.glob("cells/*/record.json") if (record := read_record(file))}
