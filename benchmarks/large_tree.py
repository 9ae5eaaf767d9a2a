"""What a large dataset costs before training: reading its tree, hashing its files, decoding its images.

Run: mddbench data fabricate real_iad DIR --full; python benchmarks/large_tree.py real_iad DIR [SIZE]
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from mddbench.data.check import read_source
from mddbench.data.dataset import dataset_manifest, load_source, open_dataset
from mddbench.progress import LineReporter

Result = TypeVar("Result")


def told(label: str, work: Callable[[], Result]) -> Result:
    """Do something, and say what it took: CPU and wall seconds, and the process's peak memory so far."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{label:<20} {time.process_time() - cpu:7.1f} s CPU {time.perf_counter() - wall:7.1f} s, peak {peak:.0f} MiB"
    )
    return result


def main() -> None:
    """Measure all of it in a cache of its own."""
    name, root, size = sys.argv[1], Path(sys.argv[2]), int((*sys.argv[3:], "64")[0])
    with TemporaryDirectory() as folder:
        cache, reporter = Path(folder), LineReporter(60)
        tree = told("reading the tree", lambda: read_source(load_source(name), root, size))
        told("hashing", lambda: dataset_manifest(tree, cache, reporter).fingerprint)
        told("hashes remembered", lambda: dataset_manifest(tree, cache, reporter).fingerprint)
        told("all, decoded", lambda: open_dataset(name, root, cache, size, reporter))


if __name__ == "__main__":
    main()
