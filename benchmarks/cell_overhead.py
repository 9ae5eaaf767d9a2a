"""What a cell costs beside its training: cells with hardly any training, one after another, two at once, and on Slurm.

Run: python benchmarks/cell_overhead.py [--cells 9] [--ways serial jobs slurm]

For each way, the seconds of a command with one cell (with two on `--jobs 2`), and what each further cell adds. On Slurm the
array has two nodes, and the time is that from submission to an empty queue.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from grids import Grid, finished, mddbench

EXPERIMENT = "folder/padim"


def command_seconds(grid: Grid, out: Path, *options: str) -> float:
    """The seconds of `mddbench run`."""
    began = time.perf_counter()
    finished(grid.run(out, *options))
    return time.perf_counter() - began


def slurm_seconds(grid: Grid, out: Path) -> float:
    """The seconds from submission to an empty queue, on a cluster of this machine that has just started."""
    from slurm_cluster import running_slurm

    with running_slurm(out.with_suffix(".slurm")) as slurm:
        file = grid.plan(out)
        finished([*mddbench("submit", str(file)), "--gpus", "0", "--cpus", "1", "--time", "30"])
        began = time.perf_counter()
        while not slurm.is_empty():
            time.sleep(0.1)
        return time.perf_counter() - began


def main() -> None:
    """Measure, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=9)
    parser.add_argument("--ways", nargs="+", default=["serial", "untracked", "jobs", "slurm"])
    arguments = parser.parse_args()
    options = {"serial": (), "untracked": ("--tracking", "none"), "jobs": ("--jobs", "2")}
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        for way in arguments.ways:
            few, seconds = 2 if way in ("jobs", "slurm") else 1, []
            for count in (few, arguments.cells):
                folder = Path(name) / f"{way}-{count}"
                grid = Grid(folder, [EXPERIMENT], "--seeds", ",".join(map(str, range(count))))
                out = folder / "out"
                seconds.append(
                    slurm_seconds(grid, out) if way == "slurm" else command_seconds(grid, out, *options[way])
                )
            each = (seconds[1] - seconds[0]) / (arguments.cells - few)
            print(f"{way:<10} {few} cells {seconds[0]:6.1f} s, each further one {each:5.2f} s", flush=True)


if __name__ == "__main__":
    main()
